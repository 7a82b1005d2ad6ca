"""Denoisers: a network (or an exact law) together with the process it undoes."""

from ddm.denoisers.denoiser import Denoiser, check_output, checked_call, evaluating
from ddm.denoisers.exact import ExactDenoiser, MarkovChainDenoiser
from ddm.denoisers.mean import MeanDenoiser
from ddm.denoisers.network import NetworkDenoiser
from ddm.denoisers.posterior import PosteriorDenoiser
from ddm.denoisers.prediction import LogLeaveOneOut, LogPosterior, LogRatio, Prediction, chunks
from ddm.denoisers.score import ScoreDenoiser
from ddm.denoisers.time_input import (
    DiscreteTime,
    MaskRatio,
    NoiseLevel,
    NoTime,
    Time,
    TimeInput,
)

__all__ = [
    "Denoiser",
    "DiscreteTime",
    "ExactDenoiser",
    "LogLeaveOneOut",
    "LogPosterior",
    "LogRatio",
    "MarkovChainDenoiser",
    "MaskRatio",
    "MeanDenoiser",
    "NetworkDenoiser",
    "NoTime",
    "NoiseLevel",
    "PosteriorDenoiser",
    "Prediction",
    "ScoreDenoiser",
    "Time",
    "TimeInput",
    "check_output",
    "checked_call",
    "chunks",
    "evaluating",
]
