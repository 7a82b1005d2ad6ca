"""What the tokens of a text stand for: characters, or parts of words."""

import json
import re
from abc import ABC, abstractmethod
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, Integer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from ddm.datamodules.corpus import Corpus
from ddm.datamodules.reading import pieces

UNKNOWN = "\ufffd"
"""Shown for a state that is no token, such as the mask."""

_PIECE = 50_000  # characters that one thread encodes at a time
_DIGITS = dict(
    enumerate(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
)


class Vocabulary(ABC):
    """Turns text into tokens and back."""

    @property
    @abstractmethod
    def tokens(self) -> list[str]:
        """What each of the V tokens stands for, in their order."""

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def identity(self) -> str:
        """Whatever the tokens of a text depend on besides the class."""
        return json.dumps(self.tokens)

    @classmethod
    def from_identity(cls, identity: str) -> "Vocabulary":
        """Return the vocabulary with that `identity`, without the text that it was made from."""
        raise ValueError(f"`vocabulary` {cls.__name__} cannot be made without a text; give `path`.")

    @abstractmethod
    def encode(self, text: str) -> Int[Tensor, " L"]:
        """Return the tokens of a text, of type int64, with shape (L,)."""

    @abstractmethod
    def decode(self, tokens: Integer[Tensor, "B L"]) -> list[str]:
        """Return B strings; a state that is no token, such as the mask, becomes U+FFFD."""


class CharacterVocabulary(Vocabulary):
    """The sorted characters of a text; the token of a character is its place among them.

    Args:
        text: Any text that holds every character needed.

    Example:
        >>> from ddm.datamodules import CharacterVocabulary
        >>> vocabulary = CharacterVocabulary("banana")
        >>> vocabulary.tokens, vocabulary.encode("nab")
        (['a', 'b', 'n'], tensor([2, 0, 1]))
    """

    def __init__(self, text: str | Corpus) -> None:
        corpus = _corpus(text)
        self.characters = corpus.remember("characters", lambda: _characters(corpus))
        if not self.characters:
            raise ValueError("`text` must hold at least one character, got ''; pass a real text.")

    @property
    def tokens(self) -> list[str]:
        """The characters."""
        return list(self.characters)

    @classmethod
    def from_identity(cls, identity: str) -> "CharacterVocabulary":
        """Return the vocabulary of these characters."""
        return cls("".join(json.loads(identity)))

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

    def decode(self, tokens: Integer[Tensor, "B L"]) -> list[str]:
        """Return B strings; a state that is no character, such as the mask, becomes U+FFFD."""
        known = torch.from_numpy(_code_points(self.characters + UNKNOWN).astype(np.int64))
        tokens = tokens.cpu().long()  # torch compares no uint16
        is_character = (tokens >= 0) & (tokens < len(self))
        points = known[torch.where(is_character, tokens, len(self))]
        return ["".join(map(chr, row)) for row in points.tolist()]


class Text8Vocabulary(CharacterVocabulary):
    """The 27 symbols of text8: small letters and the space; digits are spelled out.

    Everything else becomes a space, and runs of spaces become one, as in the preparation of the
    text8 data set, http://mattmahoney.net/dc/textdata.html.

    Args:
        text: Not looked at: the symbols are always the same.

    Example:
        >>> from ddm.datamodules import Text8Vocabulary
        >>> vocabulary = Text8Vocabulary()
        >>> vocabulary.decode(vocabulary.encode("It's 7!")[None])
        ['it s seven ']
    """

    def __init__(self, text: str | Corpus = "") -> None:
        super().__init__(" abcdefghijklmnopqrstuvwxyz")

    def encode(self, text: str) -> Int[Tensor, " L"]:
        """Return the tokens of a text in the spelling of text8, of type int64, with shape (L,)."""
        spelled = re.sub("[0-9]", lambda digit: f" {_DIGITS[int(digit.group())]} ", text.lower())
        return super().encode(re.sub("[^a-z]+", " ", spelled))


class BPE(Vocabulary):
    """Byte-level byte-pair encoding, trained on the text itself.

    Training keeps the different words of the text in memory, not the text.

    Args:
        text: The text to train on.
        vocab_size: The number V of tokens, at least 256; a short text may give fewer.

    Example:
        >>> from ddm.datamodules import BPE
        >>> vocabulary = BPE("the dog, the door, the day", vocab_size=300)
        >>> len(vocabulary), [vocabulary.tokens[i] for i in vocabulary.encode("the dog")]
        (261, ['the', 'Ġdo', 'g'])
    """

    def __init__(self, text: str | Corpus, vocab_size: int = 4096) -> None:
        if vocab_size < 256:
            raise ValueError(
                f"`vocab_size` must be at least 256, one for every byte, got {vocab_size}; raise "
                "it, or use characters."
            )
        corpus = _corpus(text)
        trained = corpus.remember(f"bpe-{vocab_size}", lambda: _train(corpus, vocab_size))
        self.tokenizer = Tokenizer.from_str(trained)

    @property
    def tokens(self) -> list[str]:
        """The tokens in the spelling of byte-level encodings: "Ġ" for a space."""
        vocabulary = self.tokenizer.get_vocab()
        return sorted(vocabulary, key=vocabulary.__getitem__)

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size()

    @property
    def identity(self) -> str:
        """The tokens and the merges."""
        return self.tokenizer.to_str()

    @classmethod
    def from_identity(cls, identity: str) -> "BPE":
        """Return the encoding with these tokens and merges."""
        encoding = cls.__new__(cls)
        encoding.tokenizer = Tokenizer.from_str(identity)
        return encoding

    def encode(self, text: str) -> Int[Tensor, " L"]:
        """Return the tokens of a text, of type int64, with shape (L,)."""
        # Pieces are encoded in parallel.
        encodings = self.tokenizer.encode_batch_fast(list(pieces([text], _PIECE)))
        return torch.tensor([token for piece in encodings for token in piece.ids], dtype=torch.long)

    def decode(self, tokens: Integer[Tensor, "B L"]) -> list[str]:
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

    Example:
        >>> from ddm.datamodules import BPE, GPT2Vocabulary
        >>> _ = BPE("the dog, the door, the day").tokenizer.model.save(".")  # like GPT-2's
        >>> vocabulary = GPT2Vocabulary(vocab_file="vocab.json", merges_file="merges.txt")
        >>> vocabulary.decode(vocabulary.encode("the dog")[None])
        ['the dog']
    """

    def __init__(self, text: str | Corpus = "", *, vocab_file: str, merges_file: str) -> None:
        for name, file in (("vocab_file", vocab_file), ("merges_file", merges_file)):
            if not Path(file).is_file():  # a pipe would never end
                raise ValueError(
                    f"`{name}` must be an existing file, got '{file}'; GPT-2's are `vocab.json` "
                    "and `merges.txt` in any copy of the model."
                )
        try:
            model = models.BPE.from_file(vocab_file, merges_file)
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(
                f"`vocab_file` and `merges_file` must be those of one byte-level encoding, got "
                f"'{vocab_file}' and '{merges_file}' ({error}); fetch them again."
            ) from error
        self.tokenizer = _byte_level(model)


def _corpus(text: str | Corpus) -> Corpus:
    return Corpus([text]) if isinstance(text, str) else text


def _characters(corpus: Corpus) -> str:
    found: set[str] = set()
    for piece in corpus:
        found.update(piece)
    return "".join(sorted(found))


def _byte_level(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _train(corpus: Corpus, vocab_size: int) -> str:
    tokenizer = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer.to_str()


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
