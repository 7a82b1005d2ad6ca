"""Windows of the tokens of documents that are read while a model trains."""

from collections.abc import Callable
from functools import cached_property
from itertools import islice
from typing import NamedTuple

import torch
from jaxtyping import Int, Integer
from lightning.pytorch import Trainer
from torch import Tensor

from ddm.datamodules.corpus import Corpus
from ddm.datamodules.documents import Documents, readable
from ddm.datamodules.stream import Place, StreamLoader, TokenStream
from ddm.datamodules.text_data import KnownVocabulary, TextData
from ddm.datamodules.vocabularies import Vocabulary
from ddm.functional import require_at_least

END = "<|endoftext|>"
"""The token of GPT-2 and others for the end of a document."""


class TextStream(TextData):
    """Windows of the tokens of a stream of documents, whatever its size; nothing is kept on disk.

    Documents are read, tokenized and cut into windows while the model trains, each followed by
    the token `end`. The shards of the stream are read in another random order in every round, and
    shared without overlap by all processes and their workers; windows are shuffled within a
    buffer. There are no epochs: the length of a run is the trainer's `max_steps`. A run that is
    resumed, wherever it stopped, sees the batches that the uninterrupted run would have seen, with
    equally many processes and workers; with others it begins a new round, and says so.

    The first documents of the stream are held out, as many as fill the windows of validation and
    test; training windows do not overlap them. A shard that turns out to be damaged is read up to
    there, with a warning.

    Args:
        documents: Makes the documents, for instance `Shards` or `HuggingFace`.
        vocabulary: Makes the vocabulary, if it needs a text from the first million characters.
        end: The token that follows every document; by default `<|endoftext|>` where the
            vocabulary has it, else none.
        length: The number of tokens L of a window.
        batch_size: The number of windows of a batch, in each process.
        num_held_out: The number of windows for validation, and again for testing.
        buffer: The number of windows that each reader shuffles at a time.
        language_model: What measures the perplexity of samples, see `GenerativePerplexity`; they
            are not measured so by default.
        num_workers: The number of processes that read and tokenize; 0 for the one that trains.
        seed: The seed of the order of shards and windows.

    Raises:
        ValueError: If an argument is out of its domain, or the documents do not fill the windows
            that are held out.

    Example:
        >>> from functools import partial
        >>> from pathlib import Path
        >>> from ddm.datamodules import CharacterVocabulary, Shards, TextStream
        >>> Path("shards").mkdir()
        >>> for i in range(4):
        ...     _ = Path(f"shards/{i}.txt").write_text("the dog runs to the door. " * 9)
        >>> documents, sizes = partial(Shards, "shards"), dict(length=12, batch_size=2)
        >>> data = TextStream(documents, CharacterVocabulary, **sizes, num_held_out=4)
        >>> next(iter(data.train_dataloader()))["tokens"].shape
        torch.Size([2, 12])
    """

    def __init__(
        self,
        documents: Callable[[], Documents],
        vocabulary: Callable[[Corpus], Vocabulary],
        *,
        end: str | None = None,
        length: int = 128,
        batch_size: int = 64,
        num_held_out: int = 256,
        buffer: int = 4096,
        language_model: str | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers, seed=seed)
        # Not logged: the logger refuses a name that the model has with another value.
        self.save_hyperparameters(logger=False)
        for name in ("documents", "vocabulary"):
            if callable(self.hparams[name]):
                # Under LightningCLI it is a class path, from which a checkpoint is rebuilt; an
                # object is left out: none is loaded from a checkpoint without trust in the file.
                del self.hparams[name]
        require_at_least(1, length=length, num_held_out=num_held_out, buffer=buffer)
        self.make_documents = documents
        self.length, self.num_held_out, self.buffer = length, num_held_out, buffer
        self.language_model = language_model
        known = isinstance(vocabulary, KnownVocabulary)
        self.vocabulary = vocabulary(Corpus([""]) if known else Corpus(self._beginning()))
        self.vocab_size = len(self.vocabulary)
        tokens = self.vocabulary.tokens
        if end is not None and end not in tokens:
            raise ValueError(
                f"`end` must be a token of the vocabulary, got {end!r}; its {len(tokens)} tokens "
                f"are {', '.join(map(repr, tokens[:5]))}, ...: name one, or leave it out."
            )
        end = END if end is None and END in tokens else end
        self.end = torch.tensor([] if end is None else [tokens.index(end)], dtype=torch.long)
        if not known:
            self.prepare_data()

    def prepare_data(self) -> None:
        """Read the documents that are held out.

        Raises:
            ValueError: If there are none beyond them.
        """
        _ = self._held_out

    @cached_property
    def documents(self) -> Documents:
        """The documents, which are looked for on first use."""
        return self.make_documents()

    def encode_document(self, text: str) -> Int[Tensor, " L"]:
        """Return the tokens of a document, the one that marks its end included."""
        return torch.cat([self.encode(text), self.end]) if text else self.end[:0]

    @cached_property
    def _held_out(self) -> "_HeldOut":
        size, parts, num = 2 * self.num_held_out * self.length, list[Tensor](), 0
        firsts = [0] * self.documents.num_shards
        for shard in range(len(firsts)):
            for document, text in readable(self.documents, shard):
                if num >= size:
                    return _HeldOut(torch.cat(parts)[:size], firsts)
                parts.append(self.encode_document(text))
                num, firsts[shard] = num + len(parts[-1]), document + 1
        raise ValueError(
            f"`documents` must hold more than the 2 x {self.num_held_out} windows of {self.length} "
            f"tokens that are held out, got {num} tokens; give more text or lower `num_held_out`."
        )

    @property
    def val_stream(self) -> Integer[Tensor, " T"]:
        """The first half of the tokens that are held out, with shape (T,)."""
        return self._held_out.tokens.chunk(2)[0]

    @property
    def test_stream(self) -> Integer[Tensor, " T"]:
        """The other half of the tokens that are held out, with shape (T,)."""
        return self._held_out.tokens.chunk(2)[1]

    @cached_property
    def train_tokens(self) -> Integer[Tensor, "N L"]:
        """As many windows as a buffer holds from the beginning of the training, (N, L)."""
        windows = self._stream.windows(Place(), 0, 1)
        return torch.stack([window for window, _ in islice(windows, self.buffer)])

    @property
    def val_tokens(self) -> Integer[Tensor, "N L"]:
        """The validation windows, with shape (N, L); they do not overlap."""
        return self.val_stream.view(-1, self.length)

    @property
    def test_tokens(self) -> Integer[Tensor, "N L"]:
        """The test windows, with shape (N, L); they do not overlap."""
        return self.test_stream.view(-1, self.length)

    def train_dataloader(self) -> StreamLoader:  # type: ignore[override]
        """Return endless batches of training windows; with a trainer, as many as its steps take.

        Raises:
            ValueError: If the trainer does not say how many steps it makes.
        """
        trainer: Trainer | None = self.trainer
        if trainer is None:
            return StreamLoader(self._stream, num_workers=self.num_workers)
        if trainer.max_steps < 1:
            raise ValueError(
                "`max_steps` of the trainer must be given, as a stream has no end, got "
                f"{trainer.max_steps}; for instance `--trainer.max_steps=100000`."
            )
        return StreamLoader(
            self._stream,
            (trainer.global_rank, trainer.world_size),
            num_workers=self.num_workers,
            num_batches=trainer.max_steps * trainer.accumulate_grad_batches,
        )

    @property
    def _stream(self) -> TokenStream:
        return TokenStream(
            self.documents,
            self.encode_document,
            self._held_out.firsts,
            length=self.length,
            batch_size=self.batch_size,
            num_shuffled=max(1, self.buffer // self.batch_size),
            seed=self.seed,
        )

    def _beginning(self, num_characters: int = 10**6) -> list[str]:
        found, num = list[str](), 0
        for shard in range(self.documents.num_shards):
            for _, text in readable(self.documents, shard):
                found.append(text)
                num += len(text)
                if num >= num_characters:
                    return found
        return found


class _HeldOut(NamedTuple):
    """The tokens that are held out, and the first document of every shard that is not."""

    tokens: Int[Tensor, " T"]
    firsts: list[int]
