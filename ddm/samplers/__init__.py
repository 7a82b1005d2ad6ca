"""Samplers: how x_t becomes x_s, and the loop from noise to data."""

from ddm.samplers.analytic import Analytic
from ddm.samplers.cache import CallCounter
from ddm.samplers.euler import Euler
from ddm.samplers.predictor_corrector import PredictorCorrector
from ddm.samplers.reveal import FirstHitting, KGillespie
from ddm.samplers.sampler import Sampler, Samples, Step
from ddm.samplers.tau_leaping import TauLeaping
from ddm.samplers.theta_trapezoidal import ThetaTrapezoidal
from ddm.samplers.trajectory import Trajectory

__all__ = [
    "Analytic",
    "CallCounter",
    "Euler",
    "FirstHitting",
    "KGillespie",
    "PredictorCorrector",
    "Sampler",
    "Samples",
    "Step",
    "TauLeaping",
    "ThetaTrapezoidal",
    "Trajectory",
]
