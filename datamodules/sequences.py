"""Token sequences, and the loaders that every data module shares."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Integer
from lightning.pytorch import LightningDataModule
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchmetrics import Metric, MetricCollection

from ddm.arrivals import token_arrivals
from ddm.datamodules.loading import EpochSampler, TrainingLoader
from ddm.datamodules.rows import Rows
from ddm.files import replacing
from ddm.functional import require_at_least
from ddm.pictures import save_figure, token_figure, trajectory_figure

Batch = dict[str, Tensor]


class TokenSequences(Dataset[Batch]):
    """N sequences of L tokens, from which whole batches are indexed at once.

    Args:
        tokens: Sequences of any integer type, with shape (N, L); a strided view is fine, and so
            are `Rows`, which are made when they are asked for.
        free: The positions that are generated, (L,) or (N, L), where others are given; items then
            hold them as "free" beside "tokens", in the same shape.

    Example:
        >>> import torch
        >>> from ddm.datamodules import TokenSequences
        >>> data = TokenSequences(torch.arange(8).reshape(2, 4), torch.arange(4) >= 2)
        >>> data[1]
        {'tokens': tensor([4, 5, 6, 7]), 'free': tensor([False, False,  True,  True])}
    """

    def __init__(
        self, tokens: Integer[Tensor, "N L"] | Rows, free: Bool[Tensor, "*N L"] | None = None
    ) -> None:
        self.tokens = tokens
        self.free = None if free is None else free.expand(tokens.shape)

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __getitem__(self, index: int) -> Batch:
        """Return one sequence as `{"tokens": (L,)}`, of type int64."""
        return self._item(index)

    def __getitems__(self, indices: list[int]) -> Batch:
        """Return a batch as `{"tokens": (B, L)}`, of type int64; the loader calls this."""
        return self._item(torch.tensor(indices))

    def _item(self, index: int | Tensor) -> Batch:
        item = {"tokens": self.tokens[index].long()}
        return item if self.free is None else item | {"free": self.free[index]}


class SequenceDataModule(LightningDataModule, ABC):
    """Base class of data modules whose data are fixed-length sequences of tokens.

    A concrete class sets `vocab_size` and `length` in its constructor, where the command line
    links them into the model, and gives the three splits as tensors. Batches are
    `{"tokens": (B, L)}` of type int64 and, in conditional generation, `"free"` (B, L).

    The order of the training sequences is a function of `seed` and the epoch alone, and the place
    in it is part of checkpoints, so a run that resumes, also inside of an epoch, sees the batches
    that the uninterrupted run would have seen. Outside of Lightning, call
    `loader.sampler.set_epoch(epoch)` before every epoch.

    Args:
        batch_size: The number of sequences of a batch, in each process.
        num_workers: The number of processes that load batches; 0 is fastest for data in memory.
        seed: The seed of the order of the training sequences.

    Attributes:
        vocab_size: The number V of tokens.
        length: The number L of tokens of a sequence.
        prompt_length: The number of first tokens that are given in conditional generation: training
            then keeps them clean, and samples continue held-out sequences.
        known: Which of the test sequences are known where they are free; None if all are.
        shape: The sizes of the axes that are flattened into a sequence; none for one axis.
    """

    vocab_size: int
    length: int
    prompt_length: int = 0
    known: Bool[Tensor, " N"] | None = None
    shape: tuple[int, ...] = ()

    def __init__(self, *, batch_size: int, num_workers: int, seed: int) -> None:
        super().__init__()
        require_at_least(1, batch_size=batch_size)
        require_at_least(0, num_workers=num_workers, seed=seed)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed

    @property
    @abstractmethod
    def train_tokens(self) -> Integer[Tensor, "N L"] | Rows:
        """The training sequences, with shape (N, L): a tensor, or `Rows` made when asked for."""

    @property
    @abstractmethod
    def val_tokens(self) -> Integer[Tensor, "N L"] | Rows:
        """The validation sequences, with shape (N, L)."""

    @property
    @abstractmethod
    def test_tokens(self) -> Integer[Tensor, "N L"] | Rows:
        """The test sequences, with shape (N, L)."""

    @abstractmethod
    def decode(self, tokens: Int[Tensor, "B L"]) -> list[str]:
        """Return B strings that show the sequences to a reader."""

    @abstractmethod
    def metrics(self) -> dict[str, Metric]:
        """Return new metrics of generated samples.

        Their `update` takes `tokens`, (B, L), and may take `reference`, the held-out sequences that
        the samples stand beside one by one, (B, L).
        """

    def measure(
        self, tokens: Int[Tensor, "B L"], reference: Int[Tensor, "B L"]
    ) -> dict[str, Tensor]:
        """Return the values of all metrics, over the samples of all processes."""
        # A collection hands `reference` to those alone that take it.
        metrics = MetricCollection(dict(self.metrics()), compute_groups=False).to(tokens.device)
        metrics.update(tokens=tokens, reference=reference.to(tokens.device))
        return metrics.compute()

    @property
    def free(self) -> Bool[Tensor, "*N L"] | None:
        """The positions that are generated, (L,), None if no others are given.

        Where they differ between sequences, (N, L); all splits then hold the same sequences.
        """
        if self.prompt_length == 0:
            return None
        return torch.arange(self.length) >= self.prompt_length

    def samples_figure(self, tokens: Int[Tensor, "B L"]) -> Figure:
        """Return a picture of samples: by default their tokens as a heat map."""
        return token_figure(tokens, self.vocab_size)

    def samples_text(self, tokens: Int[Tensor, "B L"]) -> str:
        """Return samples as text, with blank lines between; empty where text says nothing."""
        return "\n\n".join(self.decode(tokens))

    def samples_audio(self, tokens: Int[Tensor, "B L"]) -> tuple[list[Float[Tensor, " T"]], int]:
        """Return what can be heard of samples, and the number of values per second."""
        return [], 0

    def save_samples(self, tokens: Int[Tensor, "B L"], folder: Path) -> list[Path]:
        """Write samples for people to look at: by default as text and the first 64 as a picture.

        Returns:
            The files written.
        """
        return save_as_text(self.decode(tokens), self.samples_figure(tokens[:64]), folder)

    def trajectory_figure(
        self, times: Float[Tensor, "T M"], states: Int[Tensor, "T M L"]
    ) -> Figure:
        """Return a picture of samples on their way from noise to data; masks stand out in it."""
        return trajectory_figure(times, states, self.vocab_size)

    def arrival_figure(self, states: Int[Tensor, "T M L"]) -> Figure:
        """Return a picture of when the tokens of samples got their final value."""
        return token_arrivals(states)

    def trajectory_text(self, times: Float[Tensor, "T M"], states: Int[Tensor, "T M L"]) -> str:
        """Return the states of each sample, a line per state; empty where text says nothing."""
        samples = []
        for row, sequences in zip(times.T.tolist(), states.transpose(0, 1), strict=True):
            texts = [text.replace("\n", "↵") for text in self.decode(sequences)]
            lines = [f"t = {t:.3f}  {text}" for t, text in zip(row, texts, strict=True)]
            samples.append("\n".join(lines))
        return "\n\n".join(samples)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return shuffled batches of training sequences; the last, smaller one is dropped.

        Raises:
            ValueError: If a process has fewer sequences than one batch.
        """
        dataset = TokenSequences(self.train_tokens, self.free)
        trainer = self.trainer
        # Only a sampler with `set_epoch` makes the order independent of the global random state,
        # which a resumed run does not restore. It needs to know the processes: Lightning
        # does not replace it.
        sampler = EpochSampler(
            dataset,
            num_replicas=1 if trainer is None else trainer.world_size,
            rank=0 if trainer is None else trainer.global_rank,
            seed=self.seed,
            drop_last=True,
        )
        sampler.set_epoch(0 if trainer is None else trainer.current_epoch)
        if len(sampler) < self.batch_size:
            raise ValueError(
                f"`batch_size` must be at most the number of training sequences per process "
                f"({len(sampler)}), got {self.batch_size}; lower it or give more data."
            )
        return TrainingLoader(dataset, sampler=sampler, drop_last=True, **self._settings)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return all validation sequences in order, in batches."""
        return DataLoader(TokenSequences(self.val_tokens, self.free), **self._settings)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return all test sequences in order, in batches."""
        return DataLoader(TokenSequences(self.test_tokens, self.free), **self._settings)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Return the test sequences: `predict` draws a sample for each, around what is given."""
        return self.test_dataloader()

    @property
    def _settings(self) -> dict[str, Any]:
        return {
            "batch_size": self.batch_size,
            "num_workers": self.num_workers,
            "collate_fn": _already_a_batch,
            "persistent_workers": self.num_workers > 0,
        }


def save_as_text(texts: Sequence[str], picture: Figure, folder: Path) -> list[Path]:
    """Write `samples.txt` and `samples.png`; return the paths."""
    paths = [folder / "samples.txt", folder / "samples.png"]
    rule = "\n" + 72 * "-" + "\n" if any("\n" in text for text in texts) else "\n"
    with replacing(paths[0]) as unfinished:
        unfinished.write_text(rule.join(texts) + "\n", encoding="utf-8")
    save_figure(picture, paths[1], dpi=150)
    return paths


def _already_a_batch(batch: object) -> object:
    # `TokenSequences.__getitems__` has collated. A named function can travel to the workers.
    return batch
