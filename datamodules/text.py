"""Windows of the tokens of a text, from files or from Python's own documentation."""

import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics import Metric

from ddm.datamodules.corpus import Corpus, Files
from ddm.datamodules.sequences import SequenceDataModule, require_at_least
from ddm.datamodules.vocabularies import CharacterVocabulary, Vocabulary
from ddm.metrics import DistinctN, GenerativePerplexity, UnigramEntropy, WordShare, split_words
from ddm.pictures import text_figure


class Text(SequenceDataModule):
    """Windows of the tokens of a text, which are characters or parts of words.

    The last documents are held out: about `val_fraction` of the tokens for testing, and as many
    before them for validation. The cuts fall between documents (at the exact token where no
    document ends near them), so no training window overlaps held-out text. Training windows start
    every `length // 2` tokens, so each token is seen at two offsets per epoch; their order is
    shuffled in every epoch. Validation and test windows do not overlap.

    Files are read and tokenised once, a few million characters at a time. The vocabulary and the
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

    Attributes:
        train_stream: The tokens of the training text in a row, with shape (T,).
        val_stream: The tokens of the validation text in a row, with shape (T,).
        test_stream: The tokens of the test text in a row, with shape (T,).

    Raises:
        ValueError: If an argument is out of its domain, there is no text, a file that stands alone
            is not UTF-8, or a window is longer than one of the splits.
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
        if path is None:
            corpus = Corpus(_python_documentation())
        else:
            corpus = Files(Path(path), None if cache is None else Path(cache))
        self.vocabulary = vocabulary(corpus)
        self.vocab_size = len(self.vocabulary)
        self.length = length
        self.language_model = language_model
        name = f"{type(self.vocabulary).__module__}.{type(self.vocabulary).__qualname__}"
        tokens, ends = corpus.tokens(
            self.encode,
            self.vocab_size,
            key=f"{name} {self.vocabulary.identity}",
        )
        first, second = _cuts(ends, val_fraction)
        stream = torch.from_numpy(tokens)
        splits = {
            "training": stream[:first],
            "validation": stream[first:second],
            "test": stream[second:],
        }
        self.train_stream, self.val_stream, self.test_stream = splits.values()
        for split, part in splits.items():
            if len(part) < length:
                raise ValueError(
                    f"`length` must be at most the {len(part)} tokens of the {split} split "
                    f"({len(corpus)} document(s), val_fraction={val_fraction}), got {length}; "
                    "shorten the windows, change `val_fraction`, or give a longer text in more "
                    "documents."
                )

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

    @cached_property
    def held_out_words(self) -> frozenset[str]:
        """The different words of the held-out text, as the vocabulary spells it."""
        words: set[str] = set()
        for stream in (self.val_stream, self.test_stream):
            rest = ""
            for part in stream.split(2**20):
                rest += self.decode(part[None])[0]
                # The last word may go on in the next part.
                end = max(rest.rfind(" "), rest.rfind("\n")) + 1
                words.update(split_words(rest[:end]))
                rest = rest[end:]
            words.update(split_words(rest))
        return frozenset(words)

    def encode(self, text: str) -> Int[Tensor, " L"]:
        """Return the tokens of a text, with shape (L,); see `Vocabulary.encode`."""
        return self.vocabulary.encode(text)

    def decode(self, tokens: Integer[Tensor, "B L"]) -> list[str]:
        """Return the text of each sequence; the mask becomes U+FFFD."""
        return self.vocabulary.decode(tokens)

    def trajectory_figure(
        self, times: Float[Tensor, "T M"], states: Int[Tensor, "T M L"]
    ) -> Figure:
        """Return `trajectory_text` as a picture; masks are shaded."""
        return text_figure(self.trajectory_text(times, states))

    def metrics(self) -> dict[str, Metric]:
        """Return the share of words that the held-out text knows, and measures of diversity.

        `word_share_4` counts words of four letters or more only, which tells real text from a
        trigram model better: on the built-in text .65 against .05, `word_share` .76 against .26.
        With a language model there is also `generative_perplexity`.
        """
        # The metrics hold the vocabulary, not this object, which drags the trainer along.
        decode = self.vocabulary.decode
        metrics: dict[str, Metric] = {}
        if self.held_out_words:  # a text of numbers has none
            metrics["word_share"] = WordShare(self.held_out_words, decode)
            metrics["word_share_4"] = WordShare(self.held_out_words, decode, min_length=4)
        n = min(4, self.length)
        metrics |= {"unigram_entropy": UnigramEntropy(), f"distinct_{n}": DistinctN(n)}
        if self.language_model is not None:
            perplexity = GenerativePerplexity(decode, self.language_model)
            metrics["generative_perplexity"] = perplexity
        return metrics

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
        tokens: The text, with shape (T,), for instance `data.train_stream.long()`.
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


def _cuts(ends: Int[np.ndarray, " D"], val_fraction: float) -> tuple[int, int]:
    # At the starts of documents nearest to where the fractions would put them, if one is near.
    total = int(ends[-1])
    cuts = np.array([round(total * (1 - held)) for held in (2 * val_fraction, val_fraction)])
    starts = ends[np.abs(ends - cuts[:, None]).argmin(1)]
    if (np.abs(starts - cuts) > 0.4 * (total - cuts[1])).any():
        starts = cuts  # there are few documents, or a very long one
    return int(starts[0]), int(starts[1])


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
