"""One line per implementation of every noun: the conformance tests run over these lists.

A class that one of the packages exports and that is missing here fails `test_conformance.py`.
The objects are shared by all tests: take a copy before changing one.
"""

from typing import Any

import pytest
import torch
from torch import nn

from ddm.kernels import Absorbing, DenseKernel, Gaussian, Kernel, Uniform
from ddm.losses import NELBO, CrossEntropy, Hybrid, Loss, ScoreEntropy
from ddm.noise import Constant, Cosine, Exponential, Geometric, LogLinear, NoiseSchedule
from ddm.orders import (
    Confidence,
    Entropy,
    LeftToRight,
    Margin,
    Measured,
    Random,
    RevealOrder,
    Spaced,
)
from ddm.samplers import (
    Analytic,
    EntropyBound,
    Euler,
    FirstHitting,
    KGillespie,
    PredictorCorrector,
    Priced,
    Renoise,
    Reveal,
    Sampler,
    StoppingRule,
    TauLeaping,
    ThetaTrapezoidal,
    Threshold,
)
from ddm.samplers.reveal_sampler import RevealSampler

# Detailed balance with the stationary law (.2, .3, .5), and a chain that prefers one direction,
# whose eigenvalues are complex.
REVERSIBLE = [[-1.25, 0.5, 0.75], [1 / 3, -1.0, 2 / 3], [0.3, 0.4, -0.7]]
ONE_WAY = [[-1.1, 1.0, 0.1], [0.1, -1.3, 1.2], [0.9, 0.2, -1.1]]


class Blur(Kernel):
    """A kernel in its shortest form: not reversible, not dense, and with a mask of its own.

    At rate 1 a token is masked, at rate `drift` it moves one place on.
    """

    def __init__(self, vocab_size, drift=0.5):
        super().__init__(vocab_size, mask=vocab_size)
        self.drift = drift

    def prior(self):
        return torch.eye(self.num_states, dtype=torch.float64)[-1]

    def rate_from(self, x):
        return self._q()[x]

    def evolve(self, p, sigma):
        matrix = torch.linalg.matrix_exp(sigma.double()[..., None, None] * self._q())
        return (p.double()[..., None, :] @ matrix).squeeze(-2).to(p.dtype)

    def _q(self):
        v = self.vocab_size
        q = torch.zeros(v + 1, v + 1, dtype=torch.float64)
        q[:v, :v] = self.drift * (torch.eye(v).roll(1, 1) - torch.eye(v)) - torch.eye(v)
        q[:v, v] = 1.0
        return q


KERNELS: list[Kernel] = [
    Absorbing(3),
    Uniform(3),
    Gaussian(3),
    DenseKernel(REVERSIBLE),
    DenseKernel(ONE_WAY),
]

NOISES: list[NoiseSchedule] = [
    LogLinear(),
    Cosine(),
    Geometric(),
    Constant(),
    Exponential(),
]

ORDERS: list[RevealOrder] = [
    Random(),
    Spaced(),
    Spaced(jitter=0.0),
    Confidence(),
    Entropy(),
    Margin(),
    LeftToRight(),
    LeftToRight(2, Confidence()),
    LeftToRight(2, Random()),
    # Which serves sequences of three tokens alone: positions 0 and 2 depend on each other.
    Measured([[0.0, 0.1, 0.5], [0.1, 0.0, 0.1], [0.5, 0.1, 0.0]]),
]

# So careful that the random laws of the tests allow one token per call.
STOPPING_RULES: list[StoppingRule] = [
    EntropyBound(1e-6),
    Threshold(1.0),
    Priced([0, 1, 2, 3], 9 * (1 - torch.eye(4, 4).roll(1, 0)), torch.ones(4, 4), 0.0),
]

SAMPLERS: list[Sampler] = [
    Analytic(),
    Euler(),
    TauLeaping(),
    ThetaTrapezoidal(),
    ThetaTrapezoidal(theta=0.3),
    PredictorCorrector(),
    PredictorCorrector(Euler(), num_corrections=2, step_size=0.5),
    Renoise(),
    KGillespie(),
    FirstHitting(),
    *(Reveal(order) for order in ORDERS if not isinstance(order, Measured)),
    *(Reveal(Confidence(), stop=rule) for rule in STOPPING_RULES),
    Reveal(Spaced(), near_certain=1e-6),
]

LOSSES: list[Loss] = [
    NELBO(),
    ScoreEntropy(),
    CrossEntropy(),
    Hybrid(weight=0.1),
]

# These reveal masked tokens by number: they need a mask state, and `law` is not the law of a step.
REVEALING = [s for s in SAMPLERS if isinstance(s, RevealSampler)]
FACTORIZED = [s for s in SAMPLERS if s not in REVEALING]


def label(case: Any) -> str:
    """Name a case by its class and settings."""
    name = type(case).__name__
    if type(case) is DenseKernel:
        return f"{name}-{'reversible' if case.reversible else 'one_way'}"
    if isinstance(case, Sampler | Loss):
        settings = ",".join(
            label(value) if isinstance(value, Sampler) else f"{key}={value}"
            for key, value in vars(case).items()
        )
        return f"{name}({settings})" if settings else name
    return name if isinstance(case, nn.Module) else str(case)


def _each(name: str, values: list[Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(name, values, ids=label)


each_kernel = _each("kernel", KERNELS)
each_noise = _each("noise", NOISES)
each_sampler = _each("sampler", SAMPLERS)
each_factorized = _each("sampler", FACTORIZED)
each_revealing = _each("sampler", REVEALING)
each_order = _each("order", ORDERS)
each_rule = _each("rule", STOPPING_RULES)
each_loss = _each("loss", LOSSES)
each_legal_pair = pytest.mark.parametrize(
    ("kernel", "sampler"),
    [
        pytest.param(kernel, sampler, id=f"{label(kernel)}-{label(sampler)}")
        for kernel in KERNELS
        for sampler in (SAMPLERS if isinstance(kernel, Absorbing) else FACTORIZED)
    ],
)
