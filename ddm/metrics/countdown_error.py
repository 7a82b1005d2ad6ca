"""Rule violations of the CountDown task."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric


class CountDownError(Metric):
    r"""Fraction of all adjacent pairs that break the CountDown rule.

    The pair :math:`(x_l, x_{l+1})` is legal if :math:`x_{l+1} = x_l - 1` after :math:`x_l > 0`,
    or if :math:`x_l = 0`, after which every token of the vocabulary is legal. All
    :math:`L - 1` pairs of a sequence count, also the one right after a broken pair. A pair that
    holds a token outside of the vocabulary, such as a mask the sampler left behind, is broken.

    Repeating the token 0 is legal, so a collapsed sampler scores 0 here: read this metric beside
    `UnigramEntropy`.

    References:
        | Jump Your Steps: Optimizing Sampling Schedule of Discrete Diffusion Models
          (Park et al., 2025)
        | https://arxiv.org/abs/2410.07761

    Args:
        vocab_size: The number of tokens V of the task.

    Example:
        >>> import torch
        >>> from ddm.metrics import CountDownError
        >>> metric = CountDownError(vocab_size=4)
        >>> metric(torch.tensor([[2, 1, 0, 3, 3]]))  # the last pair should be (3, 2)
        tensor(0.2500)
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    broken: Tensor
    pairs: Tensor

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        if vocab_size < 2:
            raise ValueError(
                f"`vocab_size` must be at least 2, got {vocab_size}; "
                "pass the number of tokens of the CountDown task."
            )
        self.vocab_size = vocab_size
        self.add_state("broken", default=torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("pairs", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, tokens: Int[Tensor, "B L"]) -> None:
        """Count the broken pairs of a batch of sequences.

        Args:
            tokens: Generated sequences, with shape (B, L).

        Raises:
            ValueError: If the sequences are shorter than one pair.
        """
        if tokens.shape[1] < 2:
            raise ValueError(
                f"`tokens` must hold sequences of at least 2 tokens, got shape "
                f"{tuple(tokens.shape)}; generate longer sequences."
            )
        before, after = tokens[:, :-1], tokens[:, 1:]
        # Where 0 < before < V, the rule already puts `after` inside of the vocabulary.
        counts_down = (before > 0) & (before < self.vocab_size) & (after == before - 1)
        restarts = (before == 0) & (after >= 0) & (after < self.vocab_size)
        self.broken += (~(counts_down | restarts)).sum()
        self.pairs += before.numel()

    def compute(self) -> Float[Tensor, ""]:
        """Return the fraction of broken pairs over all updates, in [0, 1]."""
        return self.broken / self.pairs
