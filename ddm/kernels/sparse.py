"""Kernels whose steps can be drawn without the distribution of every token."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddm.functional import categorical
from ddm.kernels.kernel import Kernel

Rows: TypeAlias = Callable[[Tensor], Iterator[tuple[Tensor, Tensor]]]
"""From positions (n, 2), rows and columns, those of every piece, (k, 2), and what is known there:
unnormalized log leave-one-out posteriors, (k, V), float64."""

CHUNK = 2**22
"""Probabilities held at once while drawing, 32 MiB in float64: bounds the memory of large V."""


def at_once(device: torch.device) -> int:
    """Return how many probabilities are held at once: on accelerators 1 GiB, or they would idle."""
    return CHUNK if device.type == "cpu" else 32 * CHUNK


def cached(device: torch.device) -> int:
    """Return how many stay in the caches of a CPU, with what is made of them."""
    return CHUNK // 16 if device.type == "cpu" else at_once(device)


class SparseKernel(Kernel):
    """Base class of kernels for large vocabularies: a step touches what changes.

    Which tokens jump is decided first, from as little of the posterior as that needs; a pass over
    the vocabulary is made for those tokens alone that are drawn from it. The distribution is that
    of `ForwardProcess.bridge`, exactly.
    """

    @abstractmethod
    def sample_bridge(
        self,
        log_p: Rows,
        x_t: Int[Tensor, "B L"],
        sigma_t: Float[Tensor, "..."],
        sigma_s: Float[Tensor, "..."],
        generator: torch.Generator | None = None,
        *,
        free: Bool[Tensor, "B L"] | None = None,
    ) -> Int[Tensor, "B L"]:
        """Draw x_s given x_t.

        Args:
            log_p: Gives what is known of tokens, piece by piece.
            x_t: Tokens at the level sigma_t.
            sigma_t: Level to start from, a scalar or (B, 1).
            sigma_s: Level to land at, at most sigma_t.
            generator: Source of randomness.
            free: Where tokens may change; None if they may everywhere.
        """

    def draw_tokens(
        self,
        log_p: Rows,
        index: Int[Tensor, "n 2"],
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, " n"]:
        """Draw the tokens at some positions from their leave-one-out posteriors."""
        drawn = [categorical(self.normalize(p), generator) for _, p in log_p(index)]
        return torch.cat([index[:0, 0], *drawn])  # there may be none
