"""Windows of the tokens of a text, from files or from Python's own documentation."""

import gzip
import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torchmetrics import Metric

from ddm.datamodules.sequences import SequenceDataModule, require_at_least
from ddm.datamodules.vocabularies import CharacterVocabulary, Vocabulary
from ddm.metrics import DistinctN, UnigramEntropy, WordShare, split_words


class Text(SequenceDataModule):
    """Windows of the tokens of a text, which are characters or parts of words.

    The last documents are held out: about `val_fraction` of the characters for testing, and as
    many before them for validation. The cuts fall between documents (at the exact character if
    there is one document only), so no training window overlaps held-out text. Training windows
    start every `length // 2` tokens, so each token is seen at two offsets per epoch; their
    order is shuffled in every epoch. Validation and test windows do not overlap.

    The built-in text is the English documentation inside of every CPython
    (`pydoc_data.topics`), 0.37 MB once the paragraphs that it repeats are dropped: without that,
    7 % of the held-out windows of 128 characters would stand in the training text. It differs
    a little between versions of Python: compare results of one version.

    Args:
        path: A UTF-8 text file, which is one document, or a folder whose `*.txt` and `*.txt.gz`
            files, at any depth and in sorted order, are the documents; names that end in `.gz` are
            unpacked. By default, the built-in text, whose documents are its topics.
        vocabulary: Makes the vocabulary from the whole text; its characters by default.
        length: The number of tokens L of a window.
        batch_size: The number of windows of a batch, in each process.
        val_fraction: The share of the characters held out for validation, and again for testing,
            in ]0, 0.5[.
        num_workers: The number of processes that load batches; 0 is fastest for data in memory.
        seed: The seed of the order of the training windows.

    Raises:
        ValueError: If an argument is out of its domain, a file is missing, empty or not UTF-8, or
            a window is longer than one of the splits.
    """

    def __init__(
        self,
        path: str | None = None,
        *,
        vocabulary: Callable[[str], Vocabulary] = CharacterVocabulary,
        length: int = 128,
        batch_size: int = 64,
        val_fraction: float = 0.05,
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
        documents = _python_documentation() if path is None else _read_documents(Path(path))
        self.train_text, self.val_text, self.test_text = _split(documents, val_fraction)
        self.vocabulary = vocabulary("".join(documents))
        self.vocab_size = len(self.vocabulary)
        self.length = length
        splits = {"training": self.train_text, "validation": self.val_text, "test": self.test_text}
        # int32 halves the memory of a large text; batches are cast as they are fetched.
        self._tokens = {name: self.encode(text).int() for name, text in splits.items()}
        for name, tokens in self._tokens.items():
            if len(tokens) < length:
                raise ValueError(
                    f"`length` must be at most the {len(tokens)} tokens of the {name} split "
                    f"({len(documents)} document(s), val_fraction={val_fraction}), got {length}; "
                    "shorten the windows, change `val_fraction`, or give a longer text in more "
                    "documents."
                )

    @cached_property
    def train_tokens(self) -> Int[Tensor, "N L"]:
        """The training windows, with shape (N, L): a view in which they overlap by half."""
        return self._windows("training", stride=max(1, self.length // 2))

    @cached_property
    def val_tokens(self) -> Int[Tensor, "N L"]:
        """The validation windows, with shape (N, L); they do not overlap."""
        return self._windows("validation", stride=self.length)

    @cached_property
    def test_tokens(self) -> Int[Tensor, "N L"]:
        """The test windows, with shape (N, L); they do not overlap."""
        return self._windows("test", stride=self.length)

    def encode(self, text: str) -> Int[Tensor, " L"]:
        """Return the tokens of a text, with shape (L,); see `Vocabulary.encode`."""
        return self.vocabulary.encode(text)

    def decode(self, tokens: Int[Tensor, "B L"]) -> list[str]:
        """Return the text of each sequence; the mask becomes U+FFFD."""
        return self.vocabulary.decode(tokens)

    def metrics(self) -> dict[str, Metric]:
        """Return the share of words that the held-out text knows, and measures of diversity.

        `word_share_4` counts words of four letters or more only, which tells real text from a
        trigram model better: on the built-in text .65 against .05, `word_share` .76 against .26.
        """
        # The metrics hold the vocabulary, not this object, which drags the trainer along.
        words = set(split_words(self.val_text)) | set(split_words(self.test_text))
        return {
            "word_share": WordShare(words, self.vocabulary.decode),
            "word_share_4": WordShare(words, self.vocabulary.decode, min_length=4),
            "unigram_entropy": UnigramEntropy(),
            "distinct_4": DistinctN(4),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the vocabulary, which gives the tokens of a checkpoint their meaning."""
        return {"vocabulary": self.vocabulary.tokens}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that the tokens mean what they meant when the checkpoint was written.

        Raises:
            ValueError: If the vocabulary is another one than that of the checkpoint.
        """
        theirs, ours = state_dict["vocabulary"], self.vocabulary.tokens
        if theirs != ours:
            pairs = zip(theirs, ours, strict=False)
            first = next((repr(pair) for pair in pairs if len(set(pair)) == 2), "their number")
            raise ValueError(
                f"`path` and `vocabulary` must give the {len(theirs)} tokens of the checkpoint, "
                f"got {len(ours)} tokens that differ, first in {first}; pass the text and the "
                "vocabulary that the model was trained with (the built-in text changes with the "
                "version of Python)."
            )

    def _windows(self, split: str, stride: int) -> Int[Tensor, "N L"]:
        return self._tokens[split].unfold(0, self.length, stride)


def trigram_sample(
    tokens: Int[Tensor, " T"],
    num: int,
    length: int,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "num length"]:
    """Draw sequences from the trigram model of a text, a baseline that knows no words.

    Each token is the successor of a uniformly drawn occurrence of the last two tokens. The text is
    taken as a circle, so every pair of tokens has a successor, and every trigram of a sample
    has exactly the law of the trigrams of the text. No smoothing: all trigrams are real.

    Args:
        tokens: The text, with shape (T,), for instance `data.encode(data.train_text)`.
        num: The number of sequences.
        length: The number of tokens of a sequence.
        generator: The source of randomness; the global one by default.

    Returns:
        Tokens of type int64, with shape (num, length).

    Raises:
        ValueError: If the text is shorter than a trigram, or `num` or `length` is not positive.
    """
    require_at_least(1, num=num, length=length)
    if tokens.numel() < 3:
        raise ValueError(
            f"`tokens` must hold at least one trigram, got {tokens.numel()} token(s); "
            "pass a longer text."
        )
    base = int(tokens.max()) + 1
    pairs, order = (tokens * base + tokens.roll(-1)).sort()
    successors = tokens.roll(-2)[order]  # those of one pair stand together
    start = torch.randint(tokens.numel(), (num,), generator=generator)
    sample = [tokens[start], tokens.roll(-1)[start]]
    while len(sample) < length:
        pair = sample[-2] * base + sample[-1]
        first = torch.searchsorted(pairs, pair)
        count = torch.searchsorted(pairs, pair, right=True) - first
        # In float64 u * count stays below count for every u < 1.
        u = torch.rand(num, dtype=torch.float64, generator=generator)
        sample.append(successors[first + (u * count).long()])
    return torch.stack(sample[:length], dim=1)


def _split(documents: list[str], val_fraction: float) -> tuple[str, str, str]:
    # The cuts go to the starts of documents nearest to where the fractions would put them.
    text = "".join(documents)
    ends = np.cumsum([len(document) for document in documents])
    cuts = [round(len(text) * (1 - held_out)) for held_out in (2 * val_fraction, val_fraction)]
    if len(documents) > 1:
        cuts = [int(ends[np.abs(ends - cut).argmin()]) for cut in cuts]
    return text[: cuts[0]], text[cuts[0] : cuts[1]], text[cuts[1] :]


def _python_documentation() -> list[str]:
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise ValueError(
            "`path` must be given, got None: this Python lacks the module `pydoc_data.topics` of "
            "the built-in text; pass a text file, or install the full standard library."
        ) from error
    seen: set[str] = set()
    documents = []
    for name in sorted(topics):
        paragraphs = []
        for paragraph in re.split(r"\n\s*\n", topics[name]):
            # Topics quote each other with other indentation and line breaks.
            words = " ".join(paragraph.split())
            if words not in seen:
                seen.add(words)
                paragraphs.append(paragraph)
        if paragraphs:
            documents.append("\n\n".join(paragraphs) + "\n\n")
    return documents


def _read_documents(path: Path) -> list[str]:
    if not path.exists():
        raise ValueError(
            f"`path` must name an existing file or folder, got '{path}'; check the spelling and "
            f"the working folder ('{Path.cwd()}')."
        )
    files = [path]
    if path.is_dir():
        files = sorted([*path.rglob("*.txt"), *path.rglob("*.txt.gz")])
    if not files:
        raise ValueError(
            f"`path` must name a folder with `*.txt` or `*.txt.gz` files, got '{path}' with none; "
            "rename the files, or name one file."
        )
    documents = [_read(file) for file in files]
    if len(documents) > 1:
        documents = [f"{document}\n" for document in documents if document]
    if not any(documents):
        raise ValueError(f"`path` must hold text, got '{path}', which is empty; give another file.")
    return documents


def _read(file: Path) -> str:
    try:
        content = file.read_bytes()
        if file.suffix == ".gz":
            content = gzip.decompress(content)
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except (EOFError, gzip.BadGzipFile) as error:
        raise ValueError(
            f"`path` must hold whole gzip files, but '{file}' is damaged or cut off ({error}); "
            "fetch it again."
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"`path` must hold UTF-8 text, got byte 0x{error.object[error.start]:02x} at position "
            f"{error.start} of '{file}'; convert it, for instance with `iconv -t UTF-8`."
        ) from error
