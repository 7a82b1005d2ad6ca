"""Losses, in nats per sequence."""

from ddm.losses.loss import Loss
from ddm.losses.nelbo import NELBO, CrossEntropy, Hybrid, ScoreEntropy

__all__ = ["NELBO", "CrossEntropy", "Hybrid", "Loss", "ScoreEntropy"]
