"""The order that spaces tokens out by how much they depend on each other, as measured."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddm.denoisers import Denoiser
from ddm.files import read_json, write_json
from ddm.functional import positive_log, require_at_least
from ddm.orders.farthest import Farthest
from ddm.orders.order import mask_of


class Measured(Farthest):
    r"""The position that depends least on all that is revealed, as measured.

    With `I_ij` the mutual information of tokens i and j, `exp(-2 I_ij)` of the variance of i is
    left when j is known, if the two are Gaussian, and `exp(-2 sum_j I_ij)` when several are, each
    of which tells something of its own. So the tokens of one call depend little on each other, and
    those of later calls are known from all sides. Among equals those come first that tell most of
    the others: the largest `(1 + sum_k I_ik) exp(-2 sum_j I_ij)` is next, with k any position and j
    those that are revealed or chosen.

    Args:
        dependence: The matrix of `I_ij` in nats, L rows of L numbers >= 0, for instance from
            `measure_dependence`; averaged with its transpose.
        jitter: How much chance there is, see `Farthest`.

    Attributes:
        digest: A checksum of the matrix, which tells orders apart in messages and in files.

    Example:
        >>> import torch
        >>> from ddm.orders import Measured
        >>> from ddm.samplers import Reveal
        >>> dependence = torch.tensor([[0.0, 0.6, 0.1], [0.6, 0.0, 0.6], [0.1, 0.6, 0.0]])
        >>> sampler = Reveal(Measured(dependence))
    """

    def __init__(
        self,
        dependence: Sequence[Sequence[float]] | Float[Tensor, "L M"],
        *,
        jitter: float = 0.5,
    ) -> None:
        super().__init__(jitter)
        try:
            matrix = torch.as_tensor(dependence, dtype=torch.float64).detach().cpu()
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(
                f"`dependence` must be a matrix of numbers, got {dependence!r:.80}; measure it "
                "with `measure_dependence`."
            ) from error
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.numel():
            raise ValueError(
                "`dependence` must be a square matrix, a row for every position, got the shape "
                f"{tuple(matrix.shape)}; measure it with `measure_dependence`."
            )
        if not (torch.isfinite(matrix).all() and (matrix >= 0).all()):
            raise ValueError(
                "`dependence` must be finite and >= 0, got values from "
                f"{float(matrix.min()):.4g} to {float(matrix.max()):.4g}; it is a mutual "
                "information."
            )
        self._dependence = ((matrix + matrix.T) / 2).fill_diagonal_(0.0)
        self.digest = hashlib.sha256(self._dependence.numpy().tobytes()).hexdigest()[:12]

    @property
    def dependence(self) -> Float[Tensor, "L L"]:
        """The matrix in nats, symmetric."""
        return self._dependence

    def distances(self, length: int) -> Float[Tensor, "L L"]:
        """Return the share of a variance that is left when another token is known."""
        if length != len(self._dependence):
            raise ValueError(
                f"`dependence` must be measured on sequences of the length {length}, got "
                f"{len(self._dependence)} positions; measure it again."
            )
        return (-2 * self._dependence).exp().fill_diagonal_(0.0)

    def nearer(
        self, far: Float[Tensor, "B L"], distance: Float[Tensor, "B L"]
    ) -> Float[Tensor, "B L"]:
        """Return what is left when one more is known."""
        return far * distance

    def from_revealed(
        self, distance: Float[Tensor, "L L"], masked: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B L"]:
        """Return what is left given all that is revealed, weighted by what it tells."""
        dependence = self._dependence.to(masked.device)
        return (1 + dependence.sum(-1)) * (-2 * (~masked).double() @ dependence).exp()

    def save(self, path: str | Path) -> None:
        """Write a JSON file, atomically."""
        write_json(path, {"dependence": self._dependence.tolist(), "jitter": self.jitter})

    @classmethod
    def load(cls, path: str | Path) -> Measured:
        """Read a file written by `save`.

        Raises:
            ValueError: The file holds something else.
        """
        content = read_json(path)
        if not isinstance(content, dict) or not {"dependence", "jitter"} <= set(content):
            raise ValueError(
                f"`{path}` must hold the keys 'dependence' and 'jitter'; write it with "
                "`Measured.save`."
            )
        return cls(content["dependence"], jitter=content["jitter"])


@torch.no_grad()
def measure_dependence(
    denoiser: Denoiser,
    x_0: Int[Tensor, "B L"],
    num_rounds: int = 16,
    *,
    free: Bool[Tensor, "B L"] | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "L L"]:
    r"""Return estimates of `E KL( p(x_i | x_j) || p(x_i) )`, nats: a call per round and one more.

    For an exact denoiser that is the mutual information of the tokens i and j, given the tokens
    that are. Every sequence of a round reveals a single position j. (Averaged over random sets of
    revealed tokens instead, dependence is screened and lost in noise; orders from that lose to
    random ones.)

    Args:
        denoiser: The model; its kernel has a mask.
        x_0: Data tokens.
        num_rounds: Rounds; each adds B columns, and some 16 for every position are well spent.
        free: Positions that are generated; the others are always known. None if all are free.
        generator: Source of chance, on the device of x_0.

    Returns:
        The mean over all draws of j in column j, 0 on the diagonal; pairs that were never seen have
        the mean of all.

    Raises:
        ValueError: The kernel has no mask.
    """
    require_at_least(1, num_rounds=num_rounds)
    process, length = denoiser.process, x_0.shape[1]
    mask = mask_of(process.kernel)
    everywhere = torch.ones_like(x_0, dtype=torch.bool) if free is None else free
    num_free = everywhere.sum(-1)

    def log_p(masked: Tensor) -> Tensor:
        t = process.time_of_masks(masked.sum(-1), num_free)
        said = denoiser(torch.where(masked, mask, x_0), t, free)
        return positive_log(said.double().leave_one_out())

    prior = log_p(everywhere)
    total, seen = torch.zeros(2, length, length, dtype=torch.float64, device=x_0.device)
    chance = torch.rand(x_0.shape, generator=generator, dtype=torch.float64, device=x_0.device)
    place = chance.masked_fill(~everywhere, 2.0).argsort(-1)  # free ones first, in random order
    for k in range(num_rounds):
        j = place.gather(-1, (k % num_free.clamp(min=1))[:, None])
        masked = everywhere.scatter(-1, j, False)
        posterior = log_p(masked)
        nats = (posterior.exp() * (posterior - prior)).sum(-1) * masked
        total.index_add_(0, j[:, 0], nats)
        seen.index_add_(0, j[:, 0], masked.double())
    mean = total.sum() / seen.sum().clamp(min=1)
    dependence = torch.where(seen > 0, total / seen.clamp(min=1), mean).T.clamp(min=0)
    return dependence.contiguous().fill_diagonal_(0.0)


def averaged_over_offsets(dependence: Float[Tensor, "L L"]) -> Float[Tensor, "L L"]:
    """Return the matrix whose entries depend on `|i - j|` alone: its profile over offsets.

    Fewer numbers are measured better; right where all positions are alike, as in text.
    """
    length = len(dependence)
    position = torch.arange(length, device=dependence.device)
    offset = (position[:, None] - position).abs()
    num = torch.bincount(offset.flatten(), minlength=length)
    total = torch.zeros(length, dtype=dependence.dtype, device=dependence.device)
    total.index_add_(0, offset.flatten(), dependence.flatten())
    return (total / num)[offset]
