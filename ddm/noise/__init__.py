"""Noise schedules: how fast tokens jump (sigma and its derivative beta, no kernel)."""

from ddm.noise.constant import Constant
from ddm.noise.cosine import Cosine
from ddm.noise.exponential import Exponential, Geometric
from ddm.noise.log_linear import LogLinear
from ddm.noise.noise import NoiseSchedule

__all__ = ["Constant", "Cosine", "Exponential", "Geometric", "LogLinear", "NoiseSchedule"]
