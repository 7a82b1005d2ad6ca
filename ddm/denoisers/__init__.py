"""Denoisers: a network (or an exact law) together with the process it undoes."""

from ddm.denoisers.denoiser import (
    Denoiser,
    MeanDenoiser,
    PosteriorDenoiser,
    ScoreDenoiser,
    checked_call,
    times_like,
)
from ddm.denoisers.exact import ExactDenoiser, MarkovChainDenoiser
from ddm.denoisers.prediction import LogLeaveOneOut, LogPosterior, LogRatio, Prediction, chunks
from ddm.denoisers.prompted import PromptedDenoiser, common_mask, given_prompt

__all__ = [
    "Denoiser",
    "ExactDenoiser",
    "LogLeaveOneOut",
    "LogPosterior",
    "LogRatio",
    "MarkovChainDenoiser",
    "MeanDenoiser",
    "PosteriorDenoiser",
    "Prediction",
    "PromptedDenoiser",
    "ScoreDenoiser",
    "checked_call",
    "chunks",
    "common_mask",
    "given_prompt",
    "times_like",
]
