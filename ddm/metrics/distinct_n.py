"""Diversity of the n-grams over all samples."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class DistinctN(Metric):
    r"""Number of different n-grams over the number of n-grams, in all samples together.

    It notices repetition inside of a sample and between samples. It falls as the number of
    samples grows: compare only values of equally many samples of equal length, for instance
    with as many sequences of real data. The different n-grams are kept in memory.

    References:
        | A Diversity-Promoting Objective Function for Neural Conversation Models
          (Li et al., 2016)
        | https://arxiv.org/abs/1510.03055

    Args:
        n: The number of tokens of an n-gram, at least 1.

    Example:
        >>> import torch
        >>> from ddm.metrics import DistinctN
        >>> metric = DistinctN(2)
        >>> metric(torch.tensor([[1, 2, 1, 2, 1]]))  # (1, 2) and (2, 1), each twice
        tensor(0.5000)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    grams: list[Tensor]
    total: Tensor

    def __init__(self, n: int) -> None:
        super().__init__()
        if n < 1:
            raise ValueError(f"`n` must be at least 1, got {n}; 1 counts single tokens.")
        self.n = n
        self.add_state("grams", default=[], dist_reduce_fx="cat")
        self.add_state("total", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, tokens: Int[Tensor, "B L"]) -> None:
        """Add the n-grams of a batch of sequences; none spans two sequences.

        Args:
            tokens: Generated sequences, with shape (B, L).

        Raises:
            ValueError: If the sequences are shorter than one n-gram.
        """
        if tokens.shape[1] < self.n:
            raise ValueError(
                f"`tokens` must hold sequences of at least n = {self.n} tokens, got shape "
                f"{tuple(tokens.shape)}; generate longer sequences or lower `n`."
            )
        grams = tokens.unfold(1, self.n, 1).flatten(0, 1)  # (B * (L - n + 1), n)
        self.total += grams.shape[0]
        # Merged at every update: memory grows with the different n-grams, not with all of them.
        self.grams = [torch.cat([*self.grams, grams]).unique(dim=0)]

    def compute(self) -> Float[Tensor, ""]:
        """Return the share of different n-grams over all updates, in ]0, 1]."""
        # Processes that were reduced to one may share n-grams, hence `unique` once more.
        return dim_zero_cat(self.grams).unique(dim=0).shape[0] / self.total
