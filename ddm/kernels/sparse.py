"""Kernels whose steps can be drawn without the distribution of every token."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ddm.functional import categorical
from ddm.kernels.kernel import Kernel

Rows: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""From the row and column numbers (n,) of n tokens, their log leave-one-out posteriors (n, V)."""

CHUNK = 2**22
"""Probabilities held at once while drawing, 32 MiB in float64: bounds the memory of large V."""


def at_once(device: torch.device) -> int:
    """Return how many probabilities are held at once: on accelerators 1 GiB, or they would idle."""
    return CHUNK if device.type == "cpu" else 32 * CHUNK


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
    ) -> Int[Tensor, "B L"]:
        """Draw x_s given x_t.

        Args:
            log_p: Gives unnormalized log leave-one-out posteriors of single tokens, float64.
            x_t: Tokens at the level sigma_t.
            sigma_t: Level to start from, a scalar or (B, 1).
            sigma_s: Level to land at, at most sigma_t.
            generator: Source of randomness.
        """

    def draw_tokens(
        self,
        log_p: Rows,
        index: Int[Tensor, "n 2"],
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, " n"]:
        """Draw the tokens at some positions from their leave-one-out posteriors."""
        size = self.num_at_once(index.device)
        # Logits are asked for in large pieces; what a CPU makes of them stays in its caches.
        few = max(1, size // 16) if index.device.type == "cpu" else size
        drawn = [
            categorical(self.normalize(logits), generator)
            for part in index.split(size)
            for logits in log_p(*part.T).split(few)
        ]
        return torch.cat(drawn)

    def num_at_once(self, device: torch.device) -> int:
        """Return the number of tokens whose posteriors are held at once."""
        return max(1, at_once(device) // self.vocab_size)
