"""Distances between the notes of a sample and those of the song that it continues."""

from abc import abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric


class _NoteHistogram(Metric):
    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    total: Tensor
    songs: Tensor

    def __init__(self, vocab_size: int, prompt_length: int = 0) -> None:
        super().__init__()
        for name, value, least in (
            ("vocab_size", vocab_size, 1),
            ("prompt_length", prompt_length, 0),
        ):
            if value < least:
                raise ValueError(f"`{name}` must be at least {least}, got {value}; raise it.")
        self.vocab_size = vocab_size
        self.prompt_length = prompt_length
        self.add_state(
            "total", default=torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum"
        )
        self.add_state("songs", default=torch.tensor(0), dist_reduce_fx="sum")

    @abstractmethod
    def _per_song(
        self, p: Float[Tensor, "B K"], q: Float[Tensor, "B K"]
    ) -> Float[Tensor, " B"]: ...

    def update(self, tokens: Int[Tensor, "B L"], reference: Int[Tensor, "_ _"]) -> None:
        """Compare a batch of samples with their songs, one by one.

        Args:
            tokens: Generated sequences, with shape (B, L); a mask left behind is a note of its own,
                which no song has.
            reference: The true songs, with shape (B, L).

        Raises:
            ValueError: If the shapes differ, or nothing follows the prompt.
        """
        if tokens.shape != reference.shape:
            raise ValueError(
                f"`reference` must hold one song per sample, of shape {tuple(tokens.shape)}, got "
                f"{tuple(reference.shape)}; pass the held-out sequences that the samples continue."
            )
        if tokens.shape[1] <= self.prompt_length:
            raise ValueError(
                f"`tokens` must be longer than the prompt ({self.prompt_length}), got shape "
                f"{tuple(tokens.shape)}; generate longer sequences."
            )
        self.total += self._per_song(self._histogram(tokens), self._histogram(reference)).sum()
        self.songs += tokens.shape[0]

    def compute(self) -> Float[Tensor, ""]:
        """Return the mean over the songs of all updates, in [0, 1]."""
        return self.total / self.songs

    def _histogram(self, tokens: Int[Tensor, "B L"]) -> Float[Tensor, "B K"]:
        generated = tokens[:, self.prompt_length :]
        known = (generated >= 0) & (generated < self.vocab_size)
        bins = torch.where(known, generated, self.vocab_size)
        counts = torch.zeros(
            len(bins), self.vocab_size + 1, dtype=torch.float64, device=bins.device
        )
        counts.scatter_add_(1, bins, torch.ones_like(bins, dtype=torch.float64))
        return counts / bins.shape[1]


class NoteHellinger(_NoteHistogram):
    r"""Hellinger distance between the note histograms of each sample and its song.

    .. math:: H = \sqrt{\tfrac{1}{2} \sum_v (\sqrt{p_v} - \sqrt{q_v})^2}

    where p and q are the frequencies of the notes, rests among them, after the prompt in the
    sample and in the true song. The value is the mean over songs: 0 for equal histograms, 1 for
    disjoint ones. It does not see the order of the notes.

    References:
        | A Continuous Time Framework for Discrete Denoising Models (Campbell et al., 2022)
        | https://arxiv.org/abs/2205.14987

    Args:
        vocab_size: The number of notes, rests among them.
        prompt_length: The number of first tokens that were given, which do not count.

    Example:
        >>> import torch
        >>> from ddm.metrics import NoteHellinger
        >>> metric = NoteHellinger(vocab_size=129)
        >>> metric(torch.tensor([[60, 62, 60, 62]]), torch.tensor([[62, 60, 62, 60]]))
        tensor(0., dtype=torch.float64)
    """

    def _per_song(self, p: Float[Tensor, "B K"], q: Float[Tensor, "B K"]) -> Float[Tensor, " B"]:
        # From the differences: 1 - sum sqrt(p q) would leave 1e-8 between equal histograms.
        return ((p.sqrt() - q.sqrt()).square().sum(dim=1) / 2).sqrt()


class NoteOutliers(_NoteHistogram):
    r"""Proportion of the notes of each sample that its song does not have.

    A token after the prompt is an outlier if it occurs nowhere after the prompt in the true song;
    a rest is a token like the others. The value is the mean over songs, in [0, 1].

    References:
        | A Continuous Time Framework for Discrete Denoising Models (Campbell et al., 2022)
        | https://arxiv.org/abs/2205.14987

    Args:
        vocab_size: The number of notes, rests among them.
        prompt_length: The number of first tokens that were given, which do not count.

    Example:
        >>> import torch
        >>> from ddm.metrics import NoteOutliers
        >>> metric = NoteOutliers(vocab_size=129)
        >>> metric(torch.tensor([[60, 62, 64, 61]]), torch.tensor([[62, 60, 62, 64]]))
        tensor(0.2500, dtype=torch.float64)
    """

    def _per_song(self, p: Float[Tensor, "B K"], q: Float[Tensor, "B K"]) -> Float[Tensor, " B"]:
        return (p * (q == 0)).sum(dim=1)
