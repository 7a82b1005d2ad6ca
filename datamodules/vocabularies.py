"""What the tokens of a text stand for: characters, or parts of words."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Int
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor

UNKNOWN = "\ufffd"
"""Shown for a state that is no token, such as the mask."""

_DIGITS = dict(
    enumerate(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
)
# Here a text may be cut without changing a token of a byte-level encoding: where a line begins in
# the first column after a line that does not end in spaces.
_CUT = re.compile(r"(?<=\S)\n(?=\S)")


class Vocabulary(ABC):
    """Turns text into tokens and back."""

    @property
    @abstractmethod
    def tokens(self) -> list[str]:
        """What each of the V tokens stands for, in their order."""

    def __len__(self) -> int:
        return len(self.tokens)

    @abstractmethod
    def encode(self, text: str) -> Int[Tensor, " L"]:
        """Return the tokens of a text, of type int64, with shape (L,)."""

    @abstractmethod
    def decode(self, tokens: Int[Tensor, "B L"]) -> list[str]:
        """Return B strings; a state that is no token, such as the mask, becomes U+FFFD."""


class CharacterVocabulary(Vocabulary):
    """The sorted characters of a text; the token of a character is its place among them.

    Args:
        text: Any text that holds every character needed.
    """

    def __init__(self, text: str) -> None:
        if not text:
            raise ValueError("`text` must hold at least one character, got ''; pass a real text.")
        self.characters = "".join(sorted(set(text)))

    @property
    def tokens(self) -> list[str]:
        """The characters."""
        return list(self.characters)

    def encode(self, text: str) -> Int[Tensor, " L"]:
        """Return the tokens of a text, of type int64, with shape (L,).

        Raises:
            ValueError: If the text holds a character that the vocabulary lacks.
        """
        known = _code_points(self.characters)
        points = _code_points(text)
        tokens = np.searchsorted(known, points)
        # A character above the last known one is placed at V, one past the end.
        if (points != known[np.minimum(tokens, len(known) - 1)]).any():
            missing = sorted(set(text) - set(self.characters))
            first = ", ".join(map(repr, missing[:5]))
            raise ValueError(
                f"`text` must consist of the {len(self)} characters of the vocabulary, got "
                f"{len(missing)} other(s), such as {first}; replace them, or build the "
                "vocabulary from a text that holds them."
            )
        return torch.from_numpy(tokens)

    def decode(self, tokens: Int[Tensor, "B L"]) -> list[str]:
        """Return B strings; a state that is no character, such as the mask, becomes U+FFFD."""
        known = torch.from_numpy(_code_points(self.characters + UNKNOWN).astype(np.int64))
        tokens = tokens.cpu()
        is_character = (tokens >= 0) & (tokens < len(self))
        points = known[torch.where(is_character, tokens, len(self))]
        return ["".join(map(chr, row)) for row in points.tolist()]


class Text8Vocabulary(CharacterVocabulary):
    """The 27 symbols of text8: small letters and the space; digits are spelled out.

    Everything else becomes a space, and runs of spaces become one, as in the preparation of the
    text8 data set, http://mattmahoney.net/dc/textdata.html.

    Args:
        text: Not looked at: the symbols are always the same.
    """

    def __init__(self, text: str = "") -> None:
        super().__init__(" abcdefghijklmnopqrstuvwxyz")

    def encode(self, text: str) -> Int[Tensor, " L"]:
        """Return the tokens of a text in the spelling of text8, of type int64, with shape (L,)."""
        spelled = re.sub("[0-9]", lambda digit: f" {_DIGITS[int(digit.group())]} ", text.lower())
        return super().encode(re.sub("[^a-z]+", " ", spelled))


class BPE(Vocabulary):
    """Byte-level byte-pair encoding, trained on the text itself.

    Args:
        text: The text to train on.
        vocab_size: The number V of tokens, at least 256; a short text may give fewer.
    """

    def __init__(self, text: str, vocab_size: int = 4096) -> None:
        if vocab_size < 256:
            raise ValueError(
                f"`vocab_size` must be at least 256, one for every byte, got {vocab_size}; raise "
                "it, or use characters."
            )
        self.tokenizer = ByteLevelBPETokenizer()
        self.tokenizer.train_from_iterator(_pieces(text), vocab_size, show_progress=False)

    @property
    def tokens(self) -> list[str]:
        """The tokens in the spelling of byte-level encodings: "Ġ" for a space."""
        vocabulary = self.tokenizer.get_vocab()
        return sorted(vocabulary, key=vocabulary.__getitem__)

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size()

    def encode(self, text: str) -> Int[Tensor, " L"]:
        """Return the tokens of a text, of type int64, with shape (L,)."""
        pieces = self.tokenizer.encode_batch(list(_pieces(text)))
        return torch.tensor([token for piece in pieces for token in piece.ids])

    def decode(self, tokens: Int[Tensor, "B L"]) -> list[str]:
        """Return B strings; a state that is no token, such as the mask, becomes U+FFFD."""
        size = len(self)
        return [
            "".join(
                self.tokenizer.decode(list(run)) if known else UNKNOWN * len(list(run))
                for known, run in groupby(row, lambda state: 0 <= state < size)
            )
            for row in tokens.tolist()
        ]


class GPT2Vocabulary(BPE):
    """The 50,257 tokens of GPT-2, from its two files.

    Args:
        text: Not looked at: the tokens are always the same.
        vocab_file: The tokens and their numbers, `vocab.json` (or `encoder.json`).
        merges_file: The merges, `merges.txt` (or `vocab.bpe`).
    """

    def __init__(self, text: str = "", *, vocab_file: str, merges_file: str) -> None:
        for name, file in (("vocab_file", vocab_file), ("merges_file", merges_file)):
            try:
                open(file).close()
            except OSError as error:
                raise ValueError(
                    f"`{name}` must be a file that can be read, got '{file}' ({error.strerror}); "
                    "GPT-2's are `vocab.json` and `merges.txt` in any copy of the model."
                ) from error
        self.tokenizer = ByteLevelBPETokenizer(vocab_file, merges_file)


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def _pieces(text: str, size: int = 100_000) -> Iterator[str]:
    """Yield pieces of a text whose tokens are those of the text; they are encoded in parallel."""
    start = 0
    while start < len(text):
        cut = _CUT.search(text, start + size)
        end = len(text) if cut is None else cut.end()
        yield text[start:end]
        start = end
