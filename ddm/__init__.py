"""Discrete diffusion models: kernels, samplers, and schedules that say when to step."""

from ddm._torchvision import import_torchvision

import_torchvision()

from ddm.kernels import Absorbing, DenseKernel, Gaussian, Kernel, Uniform
from ddm.process import ForwardProcess
from ddm.schedules import CostTable, OptimalSteps, SamplingSchedule

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
