"""Samplers: how x_t becomes x_s, and the loop from noise to data."""

from ddm.samplers.analytic import Analytic
from ddm.samplers.cache import CallCounter
from ddm.samplers.euler import Euler
from ddm.samplers.first_hitting import FirstHitting
from ddm.samplers.k_gillespie import KGillespie
from ddm.samplers.predictor_corrector import PredictorCorrector
from ddm.samplers.priced import Priced
from ddm.samplers.renoise import Renoise
from ddm.samplers.reveal import Reveal
from ddm.samplers.sampler import Sampler, Samples, Step
from ddm.samplers.stopping import EntropyBound, StoppingRule, Threshold
from ddm.samplers.tau_leaping import TauLeaping
from ddm.samplers.temper import Temper
from ddm.samplers.theta_trapezoidal import ThetaTrapezoidal
from ddm.samplers.trajectory import Trajectory

__all__ = [
    "Analytic",
    "CallCounter",
    "EntropyBound",
    "Euler",
    "FirstHitting",
    "KGillespie",
    "PredictorCorrector",
    "Priced",
    "Renoise",
    "Reveal",
    "Sampler",
    "Samples",
    "Step",
    "StoppingRule",
    "TauLeaping",
    "Temper",
    "ThetaTrapezoidal",
    "Threshold",
    "Trajectory",
]
