"""Transition kernels: where tokens jump (the generator Q, no time)."""

from ddm.kernels.absorbing import Absorbing
from ddm.kernels.dense import DenseKernel
from ddm.kernels.gaussian import Gaussian
from ddm.kernels.kernel import Kernel
from ddm.kernels.sparse import Rows, SparseKernel
from ddm.kernels.uniform import Uniform

__all__ = ["Absorbing", "DenseKernel", "Gaussian", "Kernel", "Rows", "SparseKernel", "Uniform"]
