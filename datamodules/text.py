"""Windows of the tokens of a text, from files or from Python's own documentation."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, Integer
from torch import Tensor

from ddm.datamodules.builtin_text import python_documentation
from ddm.datamodules.corpus import Corpus, Files
from ddm.datamodules.text_data import KnownVocabulary, TextData
from ddm.datamodules.vocabularies import CharacterVocabulary, Vocabulary
from ddm.functional import require_at_least


class Text(TextData):
    """Windows of the tokens of a text, which are characters or parts of words.

    The last documents are held out: about `val_fraction` of the tokens for testing, and as many
    before them for validation. The cuts fall between documents (at the exact token where no
    document ends near them), so no training window overlaps held-out text. Training windows start
    every `length // 2` tokens, so each token is seen at two offsets per epoch; their order is
    shuffled in every epoch. Validation and test windows do not overlap.

    Files are read and tokenized once, a few million characters at a time. The vocabulary and the
    tokens (two bytes each up to 65,536 tokens, else four) are kept in `cache`, under a name that
    changes with the files and the vocabulary, and are mapped into memory: training reads the
    windows that it needs, whatever the size of the text. What grows with the text is the order of
    the training windows, a number for each, and the different words that `word_share` and the
    training of a `BPE` count.

    The built-in text is the English documentation inside of every CPython
    (`pydoc_data.topics`), 0.37 MB once the paragraphs that it repeats are dropped: without that,
    7 % of the held-out windows of 128 characters would stand in the training text. It differs
    a little between versions of Python: compare results of one version.

    Args:
        path: A UTF-8 text file, which is one document, or a folder whose `*.txt` and `*.txt.gz`
            files, at any depth and in sorted order, are the documents; names that end in `.gz` are
            unpacked. Hidden files and folders are not looked at. Files of a folder that are
            damaged, not UTF-8, or copies of others are left out with a warning. By default, the
            built-in text, whose documents are its topics.
        vocabulary: Makes the vocabulary from the whole text; its characters by default.
        length: The number of tokens L of a window.
        batch_size: The number of windows of a batch, in each process.
        val_fraction: The share of the tokens held out for validation, and again for testing, in
            ]0, 0.5[.
        cache: The folder of the tokens; `.cache` beside the files by default.
        language_model: What measures the perplexity of samples, see `GenerativePerplexity`; they
            are not measured so by default.
        num_workers: The number of processes that load batches; 0 is fastest for data in memory.
        seed: The seed of the order of the training windows.

    Raises:
        ValueError: If an argument is out of its domain, there is no text, a file that stands alone
            is not UTF-8, or a window is longer than one of the splits.

    Example:
        >>> from pathlib import Path
        >>> from ddm.datamodules import Text
        >>> _ = Path("dogs.txt").write_text("the dog runs to the door and barks. " * 20)
        >>> data = Text("dogs.txt", length=12)
        >>> data.decode(data.val_tokens[:1]), data.vocab_size
        (['the dog runs'], 15)
    """

    def __init__(
        self,
        path: str | None = None,
        *,
        vocabulary: Callable[[Corpus], Vocabulary] = CharacterVocabulary,
        length: int = 128,
        batch_size: int = 64,
        val_fraction: float = 0.05,
        cache: str | None = None,
        language_model: str | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers, seed=seed)
        # Not logged: the logger refuses a name that the model has with another value.
        self.save_hyperparameters(logger=False)
        if callable(self.hparams["vocabulary"]):
            # Under LightningCLI it is a class path, from which a checkpoint is rebuilt; an object
            # is left out, because none is loaded from a checkpoint without trust in the file.
            del self.hparams["vocabulary"]
        require_at_least(1, length=length)
        if not 0 < val_fraction < 0.5:
            raise ValueError(
                f"`val_fraction` must lie in ]0, 0.5[, got {val_fraction}: validation and "
                "testing take as much each; try 0.05."
            )
        self.path = None if path is None else Path(path)
        self.cache = None if cache is None else Path(cache)
        self.length = length
        self.val_fraction = val_fraction
        self.language_model = language_model
        if isinstance(vocabulary, KnownVocabulary):
            self.vocabulary = vocabulary.vocabulary
        else:
            self.vocabulary = vocabulary(self._corpus)
        self.vocab_size = len(self.vocabulary)
        if not isinstance(vocabulary, KnownVocabulary):
            self.prepare_data()

    def prepare_data(self) -> None:
        """Read the text and keep its tokens; with several processes one does it first.

        Raises:
            ValueError: If there is no text, or a window is longer than one of the splits.
        """
        for split, part in self._splits.items():
            if len(part) < self.length:
                raise ValueError(
                    f"`length` must be at most the {len(part)} tokens of the {split} split "
                    f"({len(self._corpus)} document(s), val_fraction={self.val_fraction}), got "
                    f"{self.length}; shorten the windows, change `val_fraction`, or give a longer "
                    "text in more documents."
                )

    @cached_property
    def _corpus(self) -> Corpus:
        if self.path is None:
            return Corpus(python_documentation())
        return Files(self.path, self.cache)

    @cached_property
    def _splits(self) -> dict[str, Tensor]:
        name = f"{type(self.vocabulary).__module__}.{type(self.vocabulary).__qualname__}"
        tokens, ends = self._corpus.tokens(
            self.encode, self.vocab_size, key=f"{name} {self.vocabulary.identity}"
        )
        first, second = _cuts(ends, self.val_fraction)
        stream = torch.from_numpy(tokens)
        return {
            "training": stream[:first],
            "validation": stream[first:second],
            "test": stream[second:],
        }

    @property
    def train_stream(self) -> Integer[Tensor, " T"]:
        """The tokens of the training text in a row, with shape (T,)."""
        return self._splits["training"]

    @property
    def val_stream(self) -> Integer[Tensor, " T"]:
        """The tokens of the validation text in a row, with shape (T,)."""
        return self._splits["validation"]

    @property
    def test_stream(self) -> Integer[Tensor, " T"]:
        """The tokens of the test text in a row, with shape (T,)."""
        return self._splits["test"]

    @cached_property
    def train_tokens(self) -> Integer[Tensor, "N L"]:
        """The training windows, with shape (N, L): a view in which they overlap by half."""
        return self.train_stream.unfold(0, self.length, max(1, self.length // 2))

    @cached_property
    def val_tokens(self) -> Integer[Tensor, "N L"]:
        """The validation windows, with shape (N, L); they do not overlap."""
        return self.val_stream.unfold(0, self.length, self.length)

    @cached_property
    def test_tokens(self) -> Integer[Tensor, "N L"]:
        """The test windows, with shape (N, L); they do not overlap."""
        return self.test_stream.unfold(0, self.length, self.length)


def _cuts(ends: Int[np.ndarray, " D"], val_fraction: float) -> tuple[int, int]:
    # At the starts of documents nearest to where the fractions would put them, if one is near.
    total = int(ends[-1])
    cuts = np.array([round(total * (1 - held)) for held in (2 * val_fraction, val_fraction)])
    starts = ends[np.abs(ends - cuts[:, None]).argmin(1)]
    if (np.abs(starts - cuts) > 0.4 * (total - cuts[1])).any():
        starts = cuts  # there are few documents, or a very long one
    return int(starts[0]), int(starts[1])
