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
    r"""The position farthest from all that is revealed, by a distance that is measured.

    Neighbors are those whose tokens depend on each other, whatever the geometry: with `I_ij` the
    conditional mutual information of tokens i and j the distance is that of the shortest path
    whose edges have the lengths `1 / I_ij`. Dependence alone tells near from far, but not far from
    farther, where it is lost in noise; paths of strong edges carry it on.

    Args:
        dependence: The matrix of `I_ij` in nats, L rows of L numbers >= 0, for instance from
            `measure_dependence`; averaged with its transpose.
        jitter: How much chance there is, see `Farthest`.

    Attributes:
        digest: A checksum of the matrix, which tells orders apart in messages and in files.
    """

    def __init__(
        self,
        dependence: Sequence[Sequence[float]] | Float[Tensor, "L M"],
        *,
        jitter: float = 0.5,
    ) -> None:
        super().__init__(jitter)
        matrix = torch.as_tensor(dependence, dtype=torch.float64).detach().cpu()
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
        self._dependence = (matrix + matrix.T) / 2
        self._distances = shortest_distances(self._dependence)
        self.digest = hashlib.sha256(self._dependence.numpy().tobytes()).hexdigest()[:12]

    def distances(self, length: int) -> Float[Tensor, "L L"]:
        """Return the lengths of the shortest paths."""
        if length != len(self._distances):
            raise ValueError(
                f"`dependence` must be measured on sequences of the length {length}, got "
                f"{len(self._distances)} positions; measure it again."
            )
        return self._distances

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


def shortest_distances(dependence: Float[Tensor, "L L"]) -> Float[Tensor, "L L"]:
    """Return the lengths of the shortest paths over edges of the lengths 1 / dependence.

    Nothing is farther than `L` times the longest edge that a dependence of 1e-6 nats gives.
    """
    distance = 1 / dependence.clamp(min=1e-6)
    distance.fill_diagonal_(0.0)
    for k in range(len(distance)):  # Floyd and Warshall
        torch.minimum(distance, distance[:, k, None] + distance[k], out=distance)
    return distance


@torch.no_grad()
def measure_dependence(
    denoiser: Denoiser,
    x_0: Int[Tensor, "B L"],
    num_rounds: int = 16,
    *,
    free: Bool[Tensor, "B L"] | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "L L"]:
    r"""Return estimates of `E KL(p(x_i | C, x_j) || p(x_i | C))`, nats, by two calls per round.

    For an exact denoiser that is the conditional mutual information of the tokens i and j given
    those of C, averaged over sets C of a uniformly random size. Every sequence of a round reveals
    one position j more.

    Args:
        denoiser: The model; its kernel has a mask.
        x_0: Data tokens.
        num_rounds: Rounds; each adds B entries j, so some 100 L / B of them are well spent.
        free: Positions that are generated; the others are always in C. None if all are free.
        generator: Source of the noise, on the device of x_0.

    Returns:
        The mean over all draws of j in column j; pairs that were never seen have the mean of all.

    Raises:
        ValueError: The kernel has no mask.
    """
    require_at_least(1, num_rounds=num_rounds)
    process, length = denoiser.process, x_0.shape[1]
    mask = mask_of(process.kernel)
    everywhere = torch.ones_like(x_0, dtype=torch.bool) if free is None else free
    num_free = everywhere.sum(-1)
    total, seen = torch.zeros(2, length, length, dtype=torch.float64, device=x_0.device)
    for _ in range(num_rounds):
        u = torch.rand(x_0.shape, generator=generator, dtype=torch.float64, device=x_0.device)
        place = u.masked_fill(~everywhere, 2.0).argsort(-1).argsort(-1)
        share = torch.rand(len(x_0), generator=generator, dtype=torch.float64, device=x_0.device)
        num = (2 + share * (num_free - 1)).long().clamp(max=num_free)
        log_p = []
        for masks in (num, num - 1):  # the masked position that comes last is j
            masked = place < masks.clamp(min=0)[:, None]
            t = process.time_of_masks(masks.clamp(min=0), num_free)
            said = denoiser(torch.where(masked, mask, x_0), t, free)
            log_p.append(positive_log(said.double().leave_one_out()))
        nats = (log_p[1].exp() * (log_p[1] - log_p[0])).sum(-1) * masked
        j = place.where(place == (num - 1)[:, None], -1).argmax(-1)
        total.index_add_(0, j, nats)
        seen.index_add_(0, j, masked.double())
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
