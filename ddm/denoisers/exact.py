"""Denoisers that know the data law: oracles for tests, benchmarks and teaching."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddm.denoisers.denoiser import Denoiser
from ddm.denoisers.prediction import LogLeaveOneOut
from ddm.functional import one_hot, positive_log
from ddm.process import ForwardProcess


class ExactDenoiser(Denoiser):
    """Exact posterior for any law that can be enumerated, by Bayes over all V^L sequences.

    Args:
        process: The forward process.
        joint: The law of x_0 as a tensor with L axes of size V, non-negative, summing to 1.

    Raises:
        ValueError: The tensor is not such a law.

    Example:
        >>> import torch
        >>> from ddm import Absorbing, ForwardProcess
        >>> from ddm.denoisers import ExactDenoiser
        >>> from ddm.noise import LogLinear
        >>> joint = torch.tensor([[0.5, 0.0], [0.0, 0.5]])  # two equal tokens
        >>> denoiser = ExactDenoiser(ForwardProcess(Absorbing(2), LogLinear()), joint)
        >>> bool(denoiser(torch.tensor([[1, 2]]), torch.ones(1)).posterior()[0, 1, 1] > 0.99)
        True
    """

    log_joint: Tensor
    sequences: Tensor

    def __init__(self, process: ForwardProcess, joint: Float[Tensor, "..."]) -> None:
        super().__init__(process)
        v = process.kernel.vocab_size
        if set(joint.shape) != {v}:
            raise ValueError(
                f"`joint` must have axes of size vocab_size = {v}, got shape {tuple(joint.shape)}."
            )
        _check_law("joint", joint)
        grid = torch.cartesian_prod(*[torch.arange(v)] * joint.ndim).reshape(-1, joint.ndim)
        self.register_buffer("sequences", grid, persistent=False)
        self.register_buffer("log_joint", joint.to(torch.float64).flatten().log(), persistent=False)

    def forward(
        self,
        x_t: Int[Tensor, "B L"],
        t: Float[Tensor, " B"],
        free: Bool[Tensor, "B L"] | None = None,
    ) -> LogLeaveOneOut:
        """Return the exact leave-one-out posterior; costs B V^L L operations."""
        length, v = self.sequences.shape[1], self.process.kernel.vocab_size
        log_likelihood = _likelihood(self.process, x_t, t, free).log()  # (B, L, V)
        each = [log_likelihood[:, i, self.sequences[:, i]] for i in range(length)]
        log_p = []
        for i in range(length):
            others = self.log_joint.expand(len(x_t), -1)
            for k in range(length):
                others = others if k == i else others + each[k]
            # Impossible evidence, such as a prompt without probability, leaves NaN: an error later.
            token = one_hot(self.sequences[:, i], v, torch.float64)
            log_p.append((torch.softmax(others, -1) @ token).log())
        return LogLeaveOneOut(self.process, torch.stack(log_p, 1), x_t, t, free)


class MarkovChainDenoiser(Denoiser):
    """Exact posterior for Markov chains of any length, by forward-backward recursion.

    Tokens drawn in parallel, or a prompt, may contradict a chain with forbidden tokens and
    transitions. The posterior is then undefined; the denoiser reads such evidence under the chain
    whose laws are mixed with `slack` parts of the uniform law, which means: with as few violations
    as possible.

    Args:
        process: The forward process.
        initial: Law of the first token, (V,).
        transition: Row-stochastic matrix, (V, V).
        slack: Weight of the uniform law in both.

    Raises:
        ValueError: The arguments are not such laws or do not fit the vocabulary.

    Example:
        >>> import torch
        >>> from ddm import ForwardProcess, Absorbing
        >>> from ddm.datamodules import countdown_chain
        >>> from ddm.denoisers import MarkovChainDenoiser
        >>> from ddm.noise import LogLinear
        >>> process = ForwardProcess(Absorbing(8), LogLinear())
        >>> denoiser = MarkovChainDenoiser(process, *countdown_chain(8, 0.01))
        >>> denoiser(torch.full((1, 3), 8), torch.ones(1)).posterior().shape
        torch.Size([1, 3, 8])
    """

    initial: Tensor
    transition: Tensor

    def __init__(
        self,
        process: ForwardProcess,
        initial: Float[Tensor, " V"],
        transition: Float[Tensor, "V V"],
        *,
        slack: float = 1e-12,
    ) -> None:
        super().__init__(process)
        v = process.kernel.vocab_size
        if initial.shape != (v,) or transition.shape != (v, v):
            raise ValueError(
                f"`initial` and `transition` must have the shapes ({v},) and ({v}, {v}) of the "
                f"kernel's vocabulary, got {tuple(initial.shape)} and {tuple(transition.shape)}."
            )
        _check_law("initial", initial)
        for row in transition:
            _check_law("transition", row)
        initial = (1 - slack) * initial.to(torch.float64) + slack / v
        transition = (1 - slack) * transition.to(torch.float64) + slack / v
        self.register_buffer("initial", initial, persistent=False)
        self.register_buffer("transition", transition, persistent=False)

    def forward(
        self,
        x_t: Int[Tensor, "B L"],
        t: Float[Tensor, " B"],
        free: Bool[Tensor, "B L"] | None = None,
    ) -> LogLeaveOneOut:
        """Return the exact leave-one-out posterior; costs B L V^2 operations."""
        likelihood = _likelihood(self.process, x_t, t, free)  # (B, L, V)
        # Scaling a position's likelihood changes no posterior and keeps the recursion in range.
        likelihood = likelihood / likelihood.amax(-1, keepdim=True)
        length = x_t.shape[1]
        forward, message = [], self.initial.expand(x_t.shape[0], -1)
        for i in range(length):
            forward.append(message / message.sum(-1, keepdim=True))
            message = (forward[-1] * likelihood[:, i]) @ self.transition
        backward, message = [], torch.ones_like(forward[0])
        for i in reversed(range(length)):
            backward.append(message / message.sum(-1, keepdim=True))
            message = (backward[-1] * likelihood[:, i]) @ self.transition.T
        log_p = positive_log(torch.stack(forward, 1)) + positive_log(torch.stack(backward[::-1], 1))
        return LogLeaveOneOut(self.process, log_p, x_t, t, free)


def _likelihood(
    process: ForwardProcess,
    x_t: Int[Tensor, "B L"],
    t: Float[Tensor, " B"],
    free: Bool[Tensor, "B L"] | None,
) -> Float[Tensor, "B L V"]:
    """Return what every token says of x_0: a given one is clean, whatever the time."""
    likelihood = process.likelihood(x_t, t)
    if free is None:
        return likelihood
    v = likelihood.shape[-1]
    given = one_hot(x_t.clamp(max=v - 1), v, torch.float64)
    return torch.where(free[..., None], likelihood, given)


def _check_law(name: str, p: Tensor) -> None:
    if not (p >= 0).all() or not math.isclose(float(p.sum()), 1.0, rel_tol=1e-6):
        raise ValueError(
            f"`{name}` must be >= 0 and sum to 1, got minimum {float(p.min()):.4g} and sum "
            f"{float(p.sum()):.6g}; divide by the sum."
        )
