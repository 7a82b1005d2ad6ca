"""What the benchmarks measure on: joints that can be enumerated, and chains; exact denoisers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from ddm import CostTable, ForwardProcess, OptimalSteps, SamplingSchedule
from ddm.datamodules.countdown import countdown_chain, sample_chain
from ddm.denoisers import Denoiser, ExactDenoiser, MarkovChainDenoiser, Prediction
from ddm.functional import times_like
from ddm.kernels import Absorbing, DenseKernel, Gaussian, Kernel, Uniform
from ddm.metrics import CountDownError
from ddm.noise import LogLinear, NoiseSchedule
from ddm.samplers import Analytic
from ddm.schedules.optimal.retention import blind_ratio, sign_test, still_seen

import torch
from torch import Tensor

ORDINARY, NEAR = "ordinary", "near-deterministic"
Law = Tensor
"""Probabilities of sequences, L axes of size V."""


def discretized_gaussian(vocab_size: int, width: float | None = None) -> DenseKernel:
    """Return the kernel `exp(-(i - j)^2 / (2 width^2))`, V / 10 by default; largest exit rate 4."""
    width = vocab_size / 10 if width is None else width
    i = torch.arange(vocab_size, dtype=torch.float64)
    rate = torch.exp(-((i[:, None] - i) ** 2) / (2 * width**2)).fill_diagonal_(0)
    rate *= 4 / rate.sum(-1).max()
    return DenseKernel(rate - torch.diag(rate.sum(-1)), ordinal=True)


SMALL_KERNELS: dict[str, Callable[[int], Kernel]] = {
    "absorbing": Absorbing,
    "uniform": Uniform,
    "gaussian": lambda vocab_size: discretized_gaussian(vocab_size, width=0.8),
}


def random_joint(vocab_size: int, length: int, coupling: float = 1.0, seed: int = 0) -> Law:
    """Return a law with full support; coupling 0 is uniform."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(vocab_size**length, generator=generator, dtype=torch.float64)
    return torch.softmax(coupling * logits, 0).reshape([vocab_size] * length)


def chain_joint(initial: Tensor, transition: Tensor, length: int) -> Law:
    """Return the law of a Markov chain."""
    law = initial
    for _ in range(length - 1):
        law = law[..., None] * transition
    return law


def joints() -> dict[str, tuple[str, Law]]:
    """Return group and law of every joint by name, V^L <= 256."""
    found: dict[str, tuple[str, Law]] = {}
    spins = 2.0 * sequences(2, 6).double() - 1
    for beta in (0.2, 0.4, 0.6, 0.8, 1.0):
        energy = beta * (spins * spins.roll(1, 1)).sum(1)
        found[f"Ising ring, beta = {beta}"] = ORDINARY, torch.softmax(energy, 0).reshape([2] * 6)
    for beta in (0.5, 1.0, 2.0):
        energy = beta * spins[:, :5].prod(1)[::2]
        found[f"soft parity, beta = {beta}"] = ORDINARY, torch.softmax(energy, 0).reshape([2] * 5)
    for v, length, coupling in ((2, 6, 1.0), (3, 4, 1.0), (3, 4, 2.0), (4, 3, 1.0), (4, 3, 2.0)):
        law = random_joint(v, length, coupling, seed=v + length)
        found[f"random, V = {v}, L = {length}, coupling {coupling}"] = ORDINARY, law
    for group, flip in ((ORDINARY, 0.1), (ORDINARY, 0.2), (ORDINARY, 0.3), (NEAR, 0.01)):
        rows = torch.tensor([[1 - flip, flip], [flip, 1 - flip]], dtype=torch.float64)
        found[f"binary chain, flip {flip}"] = group, chain_joint(rows.mean(0), rows, 6)
    for v in (3, 4):
        generator = torch.Generator().manual_seed(v)
        rows = torch.softmax(1.5 * torch.randn(v, v, generator=generator, dtype=torch.float64), -1)
        law = chain_joint(torch.full((v,), 1 / v, dtype=torch.float64), rows, 4)
        found[f"random chain, V = {v}, L = 4"] = ORDINARY, law
    for group, v, length, smoothing in (
        (ORDINARY, 3, 4, 0.1),
        (ORDINARY, 3, 4, 0.3),
        (ORDINARY, 4, 4, 0.2),
        (NEAR, 3, 4, 0.001),
        (NEAR, 3, 5, 0.002),
        (NEAR, 4, 3, 0.01),
        (NEAR, 4, 4, 0.001),
    ):
        initial, rows = countdown_chain(v, smoothing)
        law = chain_joint(initial, rows, length)
        found[f"CountDown, V = {v}, L = {length}, smoothing {smoothing}"] = group, law
    return found


def sequences(num_states: int, length: int) -> Tensor:
    """Return all sequences, (S, L), in the order of `flatten`."""
    return torch.cartesian_prod(*[torch.arange(num_states)] * length).reshape(-1, length)


def product_law(law: Tensor) -> Tensor:
    """Return the law of whole sequences from independent tokens (B, L, K), (B, K^L)."""
    out = law[:, 0]
    for i in range(1, law.shape[1]):
        out = (out[:, :, None] * law[:, i, None, :]).flatten(1)
    return out


def kl(p: Tensor, q: Tensor) -> float:
    """Return KL(p || q) in nats."""
    p, q = p.flatten(), q.flatten()
    return float((torch.xlogy(p, p) - torch.xlogy(p, q)).sum())


class Enumerated:
    """Everything about one joint and kernel that takes the sum over all S states."""

    def __init__(self, kernel: Kernel, joint: Law, noise: NoiseSchedule | None = None) -> None:
        self.process = ForwardProcess(kernel, noise or LogLinear())
        self.denoiser = ExactDenoiser(self.process, joint)
        self.data = joint
        self.states = sequences(kernel.num_states, joint.ndim)
        self.is_data = (self.states < kernel.vocab_size).all(-1)
        self.said: dict[float, Prediction] = {}
        """Predictions so far, which may be cleared."""

    def prediction(self, t: float) -> Prediction:
        """Return the posteriors at all states, (S, L, V)."""
        if t not in self.said:
            self.said[t] = self.denoiser(self.states, times_like(t, self.states))
        return self.said[t]

    def start(self) -> Tensor:
        """Return the prior of all positions, (S,)."""
        kernel = self.process.kernel
        return product_law(kernel.prior().expand(1, self.data.ndim, -1))[0]

    def channel(self, s: float, t: float) -> Tensor:
        """Return the transition probabilities of one token from time s to t > s, (K, K)."""
        sigma = self.process.noise.sigma(torch.tensor([s, t], dtype=torch.float64))
        return self.process.kernel.transition(sigma[1] - sigma[0])

    def marginal(self, t: float) -> Tensor:
        """Return the law of x_t, (S,)."""
        kernel, law = self.process.kernel, self.data
        one_token = self.channel(0.0, t)[: kernel.vocab_size]
        for _ in range(law.ndim):
            law = torch.tensordot(law, one_token, ([0], [0]))  # the new axis is the last one
        return law.flatten()

    def mean(self, f: Tensor, t: float, s: float) -> Tensor:
        """Return E[f(x_t) | x_s] for functions f of x_t, (S, *)."""
        one_token = self.channel(s, t)
        out = f.reshape(*[len(one_token)] * self.data.ndim, -1)
        for i in range(self.data.ndim):
            out = torch.tensordot(one_token, out, ([1], [i])).movedim(0, i)
        return out.reshape(f.shape)

    def errors(self, times: Tensor) -> Tensor:
        """Return the errors of a cost table on an increasing grid, (M, 2); see `StepCosts`."""
        found = torch.zeros(len(times) - 1, 2, dtype=torch.float64)
        if self.process.kernel.absorbing:
            return found  # nothing is repaired
        for i in range(1, len(times)):
            t, below = float(times[i]), float(times[max(i - 1, 1)])  # whose context sees the error
            ratio, before = blind_ratio(self.prediction(t), times[i - 1])
            seen = still_seen(
                sign_test(self.prediction(below), times[i - 1]), self.mean(ratio, t, below)
            )
            before, seen = self.marginal(t) @ before.sum(-1), self.marginal(below) @ seen.sum(-1)
            found[i - 1] = torch.stack([before, seen])
        return found

    def step(self, law: Tensor, t: float, s: float) -> Tensor:
        """Return the law after one analytic step, (S,)."""
        tokens = Analytic().law([self.prediction(t)], times_like(s, self.states))
        half = tokens.shape[1] // 2
        left, right = product_law(tokens[:, :half]), product_law(tokens[:, half:])
        return ((law[:, None] * left).T @ right).flatten()

    def divergence(self, law: Tensor, times: Sequence[float]) -> float:
        """Return KL(data || samples) in nats after the rest of a schedule, from the law before."""
        for t, s in pairwise(times):
            law = self.step(law, t, s)
        return kl(self.data, law[self.is_data].clamp(min=1e-300))


VOCAB_SIZE, LENGTH = 12, 32
Chain = tuple[Tensor, Tensor]
"""Initial law (V,) and transition matrix (V, V)."""
KERNELS: dict[str, Callable[[int], Kernel]] = {
    "absorbing": Absorbing,
    "uniform": Uniform,
    "Gaussian": Gaussian,
}
RIGID, SMOOTH = "CountDown, smoothing .002", "CountDown, smoothing .2"
GRID: dict[str, Any] = {"num_times": 40, "pilot_times": 16}
"""Fewer grid times than the defaults of `OptimalSteps`: up to 16 steps and 64 tables."""


def chains(vocab_size: int = VOCAB_SIZE) -> dict[str, Chain]:
    """Return the chains by name: rigid, smooth, slow to mix, and independent tokens."""
    v = vocab_size
    flat = torch.full((v,), 1 / v, dtype=torch.float64)
    same = torch.eye(v, dtype=torch.float64)
    skewed = 0.8 ** torch.arange(v, dtype=torch.float64)
    skewed /= skewed.sum()
    return {
        RIGID: countdown_chain(v, 0.002),
        SMOOTH: countdown_chain(v, 0.2),
        "stays with .95": (flat, torch.lerp(same, flat.expand(v, -1), 0.05)),
        "independent": (skewed, skewed.expand(v, -1)),
    }


def exact(kernel: Kernel, noise: NoiseSchedule, chain: Chain) -> MarkovChainDenoiser:
    """Return the exact denoiser of a chain."""
    return MarkovChainDenoiser(ForwardProcess(kernel, noise), *chain)


def data_of(
    chain: Chain, num: int, seed: int, length: int = LENGTH
) -> tuple[Tensor, torch.Generator]:
    """Return sequences of a chain, and their generator for what comes next."""
    generator = torch.Generator().manual_seed(seed)
    return sample_chain(*chain, num, length, generator), generator


def table_of(denoiser: Denoiser, chain: Chain, num_data: int, seed: int) -> CostTable:
    """Return a cost table from fresh sequences of a chain."""
    x_0, generator = data_of(chain, num_data, seed)
    return OptimalSteps(**GRID).table(denoiser, Analytic(), x_0, generator=generator)


def violations(
    denoiser: Denoiser,
    schedule: SamplingSchedule,
    num_samples: int,
    *,
    length: int = LENGTH,
    batch_size: int | None = None,
    seed: int = 1,
) -> float:
    """Return the fraction of pairs that break the CountDown rule, from the same noise."""
    noise, kernel = torch.Generator().manual_seed(seed), denoiser.process.kernel
    metric = CountDownError(kernel.vocab_size)
    for rows in torch.arange(num_samples).split(batch_size or num_samples):
        x = kernel.sample_prior((len(rows), length), noise)
        sample = Analytic()(denoiser, x, schedule, generator=noise)
        metric.update(sample.tokens)
    return float(metric.compute())
