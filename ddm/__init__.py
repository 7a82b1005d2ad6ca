"""Discrete diffusion models: kernels, samplers, and schedules that say when to step."""

from ddm import _torchvision
from ddm.kernels import Absorbing, DenseKernel, Gaussian, Kernel, Uniform
from ddm.process import ForwardProcess
from ddm.schedules import CostTable, OptimalSteps, SamplingSchedule

_torchvision.install()  # before a program's next import of Lightning or torchmetrics

__all__ = [
    "Absorbing",
    "CostTable",
    "DenseKernel",
    "ForwardProcess",
    "Gaussian",
    "Kernel",
    "OptimalSteps",
    "SamplingSchedule",
    "Uniform",
]
