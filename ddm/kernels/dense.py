"""A kernel given by any rate matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ddm.functional import normalized
from ddm.kernels.kernel import LOST, Kernel


class DenseKernel(Kernel):
    r"""Any rate matrix Q over the data tokens: a new kernel can be one matrix.

    It is also the reference that the fast kernels are tested against. The chain must have one
    stationary law, which is its prior. If it satisfies detailed balance, `P(sigma)` comes from
    one spectral decomposition; otherwise from `uniformization`. Everything is computed in
    float64 whatever dtype is asked for, because rare transitions drown in float32 rounding.
    Memory and time are O(K^2) per distinct sigma: meant for K up to a few hundred.

    Args:
        rate_matrix: Q as a (K, K) tensor or nested list: off-diagonal entries >= 0, rows summing
            to 0.
        ordinal: Whether states are numbers, so that several jumps in one step add up.

    Raises:
        ValueError: Q is not a rate matrix or has no unique stationary law.

    Example:
        >>> import torch
        >>> from ddm import DenseKernel
        >>> kernel = DenseKernel(torch.tensor([[-1.0, 1.0], [2.0, -2.0]]))
        >>> kernel.prior()
        tensor([0.6667, 0.3333], dtype=torch.float64)
    """

    rate_matrix: Tensor
    stationary: Tensor
    eigenvalues: Tensor
    left: Tensor
    right: Tensor

    def __init__(
        self, rate_matrix: Tensor | Sequence[Sequence[float]], *, ordinal: bool = False
    ) -> None:
        try:
            q = torch.as_tensor(rate_matrix, dtype=torch.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"`rate_matrix` must be a matrix of numbers, but {error}.") from error
        _check_rate_matrix(q)
        super().__init__(q.shape[0])
        self.ordinal = ordinal
        # Tells two matrices apart where a kernel is described in a file.
        place = torch.arange(1, q.numel() + 1, dtype=torch.float64).reshape(q.shape)
        self.checksum = round(float((q * place.sin()).sum()), 9)
        pi = _stationary(q)
        self.register_buffer("rate_matrix", q, persistent=False)
        self.register_buffer("stationary", pi, persistent=False)
        flow = pi[:, None] * q
        self.reversible = bool(
            torch.allclose(flow, flow.T, rtol=1e-9, atol=1e-12 * float(flow.abs().max()))
        )
        if self.reversible:
            root = pi.sqrt()
            symmetric = root[:, None] * q / root
            eigenvalues, vectors = torch.linalg.eigh((symmetric + symmetric.T) / 2)
            self.register_buffer("eigenvalues", eigenvalues.clamp(max=0.0), persistent=False)
            self.register_buffer("left", vectors / root[:, None], persistent=False)
            self.register_buffer("right", vectors.T * root, persistent=False)

    def _apply(self, fn, recurse: bool = True) -> DenseKernel:  # type: ignore[no-untyped-def] # noqa: ANN001
        """Move the buffers with the module but keep them in float64."""
        kept = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        super()._apply(fn, recurse)
        for name, buffer in kept.items():
            moved = self._buffers[name]
            assert moved is not None
            if moved.dtype != torch.float64:
                self._buffers[name] = buffer.to(moved.device)
        return self

    def transition(self, sigma: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape K K"]:
        """Return the matrices `P(sigma)`, float64."""
        sigma = sigma.to(torch.float64)[..., None]
        if self.reversible:
            # P - I, whose rounding is relative to sigma: rare jumps keep their digits.
            change = (self.left * torch.expm1(sigma * self.eigenvalues)[..., None, :]) @ self.right
            p = change + torch.eye(self.num_states, dtype=torch.float64, device=sigma.device)
        else:
            return uniformization(self.rate_matrix, sigma)
        return p.clamp(min=0.0)  # rounding leaves -1e-17 where the chain cannot go

    def prior(self) -> Float[Tensor, " K"]:
        """Return the stationary law of Q."""
        return self.stationary

    def rate_from(self, x: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape K"]:
        """Return rows of Q."""
        return self.rate_matrix[x]

    def evolve(
        self, p: Float[Tensor, "*shape K"], sigma: Float[Tensor, "..."]
    ) -> Float[Tensor, "*shape K"]:
        """Return `p P(sigma)`."""
        return self._times(p, self.transition(sigma), sigma)

    def transition_from(
        self, x: Int[Tensor, "*shape"], sigma: Float[Tensor, "..."]
    ) -> Float[Tensor, "*shape K"]:
        """Return rows of P(sigma)."""
        return self._rows(self.transition(sigma), x, sigma)

    def deconvolve(
        self, q: Float[Tensor, "*shape K"], sigma: Float[Tensor, "..."]
    ) -> Float[Tensor, "*shape K"]:
        """Return the pseudo-inverse, from the spectrum where there is one."""
        if self.reversible:
            decay = torch.exp(sigma.to(torch.float64)[..., None] * self.eigenvalues)
            grow = torch.where(decay > LOST, 1 / decay.clamp(min=LOST), 0.0)
            inverse = (self.left * grow[..., None, :]) @ self.right
        else:
            inverse = torch.linalg.pinv(self.transition(sigma), rtol=LOST)
        return normalized(self._times(q, inverse, sigma))

    def _times(self, p: Tensor, matrix: Tensor, sigma: Tensor) -> Tensor:
        """Return p times the matrix of its sigma, for every token."""
        q = p.to(torch.float64)
        if sigma.ndim == 0:
            return (q @ matrix).to(p.dtype)
        if sigma.shape[-1] == 1 and sigma.ndim == p.ndim - 1:
            return (q @ matrix.squeeze(-3)).to(p.dtype)  # one matrix for all tokens of a sequence
        return (q[..., None, :] @ matrix).squeeze(-2).to(p.dtype)


def uniformization(
    q: Float[Tensor, "K K"], sigma: Float[Tensor, "*shape 1"]
) -> Float[Tensor, "*shape K K"]:
    r"""Return exp(sigma Q) from sums of non-negative terms, so that rare entries keep their digits.

    `exp(sigma Q) = exp(-r) sum_k r^k / k! (I + Q / rate)^k` with `r = rate sigma`, for r <= 1, then
    squared as often as needed. A general matrix exponential drops what needs two jumps in a short
    time: it is small beside 1, yet a factor of the distributions of whole steps.

    References:
        Markoff chains as an aid in the study of Markoff processes (Jensen, 1953),
        https://doi.org/10.1080/03461238.1953.10419459.
    """
    k = q.shape[0]
    rate = float(-q.diagonal().min())
    r = rate * sigma[..., None]
    squarings = max(0, math.ceil(math.log2(max(float(r.max()), 1e-300)))) if r.numel() else 0
    r = r / 2.0**squarings
    jump = torch.eye(k, dtype=q.dtype, device=q.device) + q / rate
    term = torch.exp(-r) * torch.eye(k, dtype=q.dtype, device=q.device)
    p = term
    for n in range(1, max(24, k) + 1):
        term = term @ jump * (r / n)
        p = p + term
    for _ in range(squarings):
        p = p @ p
    return p


def _check_rate_matrix(q: Tensor) -> None:
    if q.ndim != 2 or q.shape[0] != q.shape[1]:
        raise ValueError(f"`rate_matrix` must be square, got shape {tuple(q.shape)}.")
    if not torch.isfinite(q).all():
        raise ValueError("`rate_matrix` must be finite, got NaN or infinite entries.")
    off = q - torch.diag(q.diagonal())
    if (off < 0).any():
        i, j = (int(k) for k in (off < 0).nonzero()[0])
        raise ValueError(
            f"`rate_matrix` must be >= 0 off the diagonal, got {q[i, j]:.4g} at ({i}, {j}); rates "
            "of jumps are positive."
        )
    worst = q.sum(-1).abs().max()
    if worst > 1e-8 * q.abs().max():
        raise ValueError(
            f"`rate_matrix` must have rows that sum to 0, the worst sums to {worst:.4g}; put minus "
            "the sum of the other rates on the diagonal."
        )


def _stationary(q: Tensor) -> Tensor:
    """Return pi with pi Q = 0 and sum 1."""
    k = q.shape[0]
    singular = torch.linalg.svdvals(q)
    if k > 1 and singular[-2] <= 1e-10 * singular[0]:
        raise ValueError(
            "`rate_matrix` must have one stationary law, but its states fall into groups that do "
            "not communicate; connect them by positive rates."
        )
    system = torch.cat([q.T, torch.ones(1, k, dtype=q.dtype)])
    target = torch.zeros(k + 1, 1, dtype=q.dtype)
    target[-1] = 1.0
    pi = torch.linalg.lstsq(system, target, driver="gelsd").solution[:, 0]
    if pi.min() < 1e-12:
        raise ValueError(
            f"`rate_matrix` must reach every state for ever, but state {int(pi.argmin())} has "
            "stationary probability 0; use `Absorbing` for a mask state."
        )
    return pi / pi.sum()
