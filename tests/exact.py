"""Exact laws of small problems by enumeration: what the library is tested against.

Nothing here uses a closed form of the library: transition matrices are `scipy.linalg.expm` of the
generator and posteriors are sums over all sequences. `S = K^L` sequences of states are enumerated
in the order of `sequences(K, L)`, which is that of `flatten` and of Kronecker products.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import reduce
from itertools import combinations, pairwise

import numpy as np
import scipy.linalg
import scipy.stats
import torch
from problems import kl as kl  # scripts/benchmarks/problems.py enumerates, too
from problems import product_law, sequences
from problems import random_joint as random_joint
from torch import Tensor

from ddm.denoisers import Denoiser, Prediction
from ddm.kernels import Kernel
from ddm.process import ForwardProcess
from ddm.samplers import Sampler

FALSE_ALARM = 1e-6
"""Probability that one chi-square test fails although the law is right (seeds are fixed, so a
test that has passed once goes on passing)."""


def seeded(seed: int = 0) -> torch.Generator:
    """Return a generator with a fixed seed."""
    return torch.Generator().manual_seed(seed)


def at(t: float, batch: int = 1) -> Tensor:
    """Return a time for every sequence of a batch."""
    return torch.full((batch,), t, dtype=torch.float64)


# Laws of the forward process ---------------------------------------------------------------------


def rate_matrix(kernel: Kernel) -> Tensor:
    """Return Q, (K, K)."""
    return kernel.rate_from(torch.arange(kernel.num_states))


def expm(kernel: Kernel, sigma: float | Tensor) -> Tensor:
    """Return exp(sigma Q), (K, K)."""
    return torch.from_numpy(scipy.linalg.expm(float(sigma) * rate_matrix(kernel).numpy()))


def on_states(process: ForwardProcess, joint: Tensor) -> Tensor:
    """Return the law of x_0 on all S sequences of states, zero where there is a mask."""
    missing = process.kernel.num_states - process.kernel.vocab_size
    return torch.nn.functional.pad(joint, (0, missing) * joint.ndim).flatten()


def transition(process: ForwardProcess, s: float, t: float, length: int) -> Tensor:
    """Return the transition matrix of whole sequences from time s to t > s, (S, S)."""
    level = process.noise.sigma(torch.tensor([s, t], dtype=torch.float64))
    return reduce(torch.kron, [expm(process.kernel, level[1] - level[0])] * length)


def marginal(process: ForwardProcess, joint: Tensor, t: float) -> Tensor:
    """Return the law of x_t, (S,)."""
    return on_states(process, joint) @ transition(process, 0.0, t, joint.ndim)


def joint_of_times(process: ForwardProcess, joint: Tensor, s: float, t: float) -> Tensor:
    """Return the joint law of x_s and x_t, s < t, (S, S)."""
    return marginal(process, joint, s)[:, None] * transition(process, s, t, joint.ndim)


def neighbors(num_states: int, length: int) -> Tensor:
    """Return the index of `x with v at i` for every x, i, v: (S, L, K)."""
    x = sequences(num_states, length)
    place = num_states ** torch.arange(length - 1, -1, -1)
    index = (x * place).sum(-1)[:, None, None]
    change = torch.arange(num_states) - x[..., None]
    return index + change * place[:, None]


def bridge(process: ForwardProcess, joint: Tensor, s: float, t: float) -> Tensor:
    """Return the law of x_s^i given x_t for every x_t, (S, L, K), by Bayes."""
    both = joint_of_times(process, joint, s, t)
    return torch.einsum("yx,yik->xik", both / both.sum(0), _tokens(process, joint.ndim))


def posterior(process: ForwardProcess, joint: Tensor, t: float) -> Tensor:
    """Return p(x_0^i | x_t) for every x_t, (S, L, V)."""
    return bridge(process, joint, 0.0, t)[..., : process.kernel.vocab_size]


def leave_one_out(process: ForwardProcess, joint: Tensor, t: float) -> Tensor:
    """Return p(x_0^i | x_t without position i) for every x_t, (S, L, V)."""
    length = joint.ndim
    both = joint_of_times(process, joint, 0.0, t)
    law = torch.einsum("yx,yik->xik", both, _tokens(process, length))
    # Summing over x_t^i forgets position i.
    change = neighbors(process.kernel.num_states, length)
    law = law[change, torch.arange(length)[:, None]].sum(2)[..., : process.kernel.vocab_size]
    return law / law.sum(-1, keepdim=True)


def _tokens(process: ForwardProcess, length: int) -> Tensor:
    """Return the one-hot codes of all sequences, (S, L, K)."""
    num_states = process.kernel.num_states
    return torch.nn.functional.one_hot(sequences(num_states, length), num_states).double()


def ratio(process: ForwardProcess, joint: Tensor, t: float) -> Tensor:
    """Return p_t(x_t with v at i) / p_t(x_t) for every x_t, (S, L, K)."""
    p = marginal(process, joint, t)
    return p[neighbors(process.kernel.num_states, joint.ndim)] / p[:, None, None]


def given_law(joint: Tensor, tokens: Tensor, free: Tensor) -> Tensor:
    """Return the law of the free tokens given the others, an axis for each of them."""
    index = tuple(
        slice(None) if is_free else int(token) for token, is_free in zip(tokens, free, strict=True)
    )
    law = joint[index]
    return law / law.sum()


def correlation(kernel: Kernel, sigma: Tensor) -> Tensor:
    """Return the maximal correlation of the channel of one token, from its singular values."""
    root = kernel.prior().sqrt()
    channels = [root[:, None] * expm(kernel, level) / root for level in sigma]
    return torch.linalg.svdvals(torch.stack(channels))[:, 1]


# Laws of samplers --------------------------------------------------------------------------------


def step_matrix(sampler: Sampler, denoiser: Denoiser, t: float, s: float, length: int) -> Tensor:
    """Return the transition matrix of one step of a factorized sampler, (S, S).

    All histories of intermediate states that have positive probability are enumerated.
    """
    x = sequences(denoiser.process.kernel.num_states, length)
    size = len(x)
    times = [t, *(float(landing) for landing in sampler.stages(at(t), at(s)))]
    said: list[Prediction] = []
    # Histories: the number of the state at every stage so far, and their probabilities.
    visited, weight = [torch.arange(size)], torch.ones(size, dtype=torch.float64)
    for stage in range(1, len(times)):
        said.append(denoiser(x, at(times[stage - 1], size)))
        rows = [_rows(p, states) for p, states in zip(said, visited, strict=True)]
        law = weight[:, None] * product_law(sampler.law(rows, at(times[stage], len(weight))))
        if stage < len(times) - 1:
            history, after = law.nonzero(as_tuple=True)
            weight = law[history, after]
            visited = [*(states[history] for states in visited), after]
    return torch.zeros(size, size, dtype=torch.float64).index_add(0, visited[0], law)


def _rows(prediction: Prediction, index: Tensor) -> Prediction:
    """Return the prediction for these rows of its batch."""
    p = prediction
    return replace(p, features=p.output[index], head=None, x_t=p.x_t[index], t=p.t[index])


def sample_law(
    sampler: Sampler,
    denoiser: Denoiser,
    times: Sequence[float],
    length: int,
    start: Tensor | None = None,
) -> Tensor:
    """Return the law of the samples, V^L probabilities; `start` (S,) is the prior by default."""
    kernel = denoiser.process.kernel
    law = reduce(torch.kron, [kernel.prior()] * length) if start is None else start
    for t, s in pairwise(times):
        law = law @ step_matrix(sampler, denoiser, t, s, length)
    data = (sequences(kernel.num_states, length) < kernel.vocab_size).all(-1)
    assert law[~data].abs().sum() == 0, "noise is left at t = 0"
    return law[data]


def reveal_law(joint: Tensor, counts: Sequence[int]) -> Tensor:
    """Return the law of samples that reveal so many tokens per step, (V^L,).

    All subsets of the masked positions are equally likely, and the tokens of one step are drawn
    independently from the law given those that are there.
    """
    shape, length = joint.shape, joint.ndim
    # The law of (x, which positions are revealed); a masked position has an axis of size 1.
    laws = {frozenset(): torch.ones([1] * length, dtype=torch.float64)}
    for count in counts:
        after: dict[frozenset, Tensor] = {}
        for revealed, law in laws.items():
            subsets = list(combinations(sorted(set(range(length)) - revealed), count))
            known = _keep(joint, revealed)
            for subset in subsets:
                for i in subset:
                    law = law * (_keep(joint, revealed | {i}) / known)
                key = revealed | set(subset)
                after[key] = after.get(key, 0) + law / len(subsets)
                law = laws[revealed]
        laws = after
    (law,) = laws.values()
    assert law.shape == shape, "every token is revealed in the end"
    return law.flatten()


def _keep(joint: Tensor, axes: Collection[int]) -> Tensor:
    """Sum over all axes but these, which leaves axes of size 1."""
    others = [i for i in range(joint.ndim) if i not in axes]
    return joint.sum(others, keepdim=True) if others else joint


def total_variation(p: Tensor, q: Tensor) -> float:
    """Return the total variation distance."""
    return float((p.flatten() - q.flatten()).abs().sum() / 2)


def entropy(p: Tensor) -> float:
    """Return the entropy in nats."""
    return float(-torch.xlogy(p, p).sum())


# Frequencies -------------------------------------------------------------------------------------


def index_of(x: Tensor, num_states: int) -> Tensor:
    """Return the number of every sequence (B, L) in the order of `sequences`."""
    return (x * num_states ** torch.arange(x.shape[-1] - 1, -1, -1)).sum(-1)


def frequencies(index: Tensor, size: int) -> np.ndarray:
    """Count how often every one of `size` outcomes occurs."""
    return torch.bincount(index.flatten(), minlength=size).numpy()


def assert_frequencies(counts: np.ndarray, probs: Tensor) -> None:
    """Check counts against a law by a chi-square test with the false-alarm rate FALSE_ALARM.

    Outcomes that are expected fewer than 10 times are put together, for the chi-square law to hold.
    """
    expected = probs.numpy() / float(probs.sum()) * counts.sum()
    assert counts[expected == 0].sum() == 0, "an impossible outcome occurred"
    rare = expected < 10
    observed = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    if expected[-1] < 10:  # even together they are too few for a cell of their own
        order = np.argsort(expected[:-1])
        observed[order[0]] += observed[-1]
        expected[order[0]] += expected[-1]
        observed, expected = observed[:-1], expected[:-1]
    if len(expected) < 2:
        return
    statistic = ((observed - expected) ** 2 / expected).sum()
    p_value = scipy.stats.chi2.sf(statistic, len(expected) - 1)
    assert p_value > FALSE_ALARM, f"chi-square p-value {p_value:.2e}"
