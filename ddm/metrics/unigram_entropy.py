"""Diversity of the tokens inside of one sample."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric


class UnigramEntropy(Metric):
    r"""Mean over samples of the entropy of the tokens inside of each sample, in nats.

    With :math:`c_v` the number of times that token :math:`v` occurs in a sample of length
    :math:`L`, the sample scores :math:`-\sum_v (c_v / L) \log (c_v / L)`: 0 if it repeats one
    token, at most :math:`\log L`. Every sample is scored by itself, so that neither the number
    of samples nor the batch size matters. A quality gain that comes with a lower entropy than
    real data has is a loss of diversity.

    Example:
        >>> import torch
        >>> from ddm.metrics import UnigramEntropy
        >>> metric = UnigramEntropy()
        >>> metric(torch.tensor([[0, 1, 0, 1], [2, 2, 2, 2]]))  # (log 2 + 0) / 2
        tensor(0.3466, dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    entropy: Tensor
    samples: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state(
            "entropy", default=torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum"
        )
        self.add_state("samples", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, tokens: Int[Tensor, "B L"]) -> None:
        """Add the entropy of every sequence of a batch.

        Args:
            tokens: Generated sequences, with shape (B, L).

        Raises:
            ValueError: If the sequences are empty.
        """
        length = tokens.shape[1]
        if length < 1:
            raise ValueError(
                f"`tokens` must hold at least one token per sequence, got shape "
                f"{tuple(tokens.shape)}; generate longer sequences."
            )
        # sum_v (c_v / L) log c_v is the mean of log c over positions, c being the count of the
        # token at that position: no histogram over a vocabulary of unknown size.
        ordered = tokens.sort(dim=1).values.contiguous()
        counts = torch.searchsorted(ordered, ordered, right=True)
        counts -= torch.searchsorted(ordered, ordered)
        self.entropy += (math.log(length) - counts.double().log().mean(dim=1)).sum()
        self.samples += tokens.shape[0]

    def compute(self) -> Float[Tensor, ""]:
        """Return the mean entropy per sample over all updates, in nats."""
        return self.entropy / self.samples
