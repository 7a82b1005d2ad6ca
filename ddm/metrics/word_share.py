"""Share of generated words that real text knows."""

import re
from collections.abc import Callable, Collection

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric

_WORD = re.compile(r"[^\W\d_]+")


def split_words(text: str) -> list[str]:
    """Return the words of a text: its maximal runs of letters, case-folded, in order.

    Digits, underscores, apostrophes and hyphens end a word: "don't" gives "don" and "t".
    """
    return [run.group().casefold() for run in _WORD.finditer(text)]


class WordShare(Metric):
    r"""Share of the generated words that belong to a set of known words.

    A word is a maximal run of letters (see `split_words`), compared without regard to case; every
    occurrence counts. A run that touches either end of a sample may have been cut there and is
    left out, as are runs of fewer than `min_length` letters, which chance hits easily. With
    the words of a text as the set, every window of that text therefore scores exactly 1.

    The value has no meaning by itself: set it beside that of real text and that of a simple
    model of characters, such as `ddm.datamodules.trigram_sample`. It is `nan` where the samples
    hold no word.

    Args:
        words: The known words, in any case.
        decode: Turns tokens of shape (B, L) into B strings.
        min_length: The fewest letters of a word that counts.

    Example:
        >>> import torch
        >>> from ddm.datamodules import CharacterVocabulary
        >>> from ddm.metrics import WordShare
        >>> vocabulary = CharacterVocabulary("a dog sees a dug hut ")
        >>> metric = WordShare(["dog", "sees"], vocabulary.decode)
        >>> metric(vocabulary.encode(" dog sees dug ")[None])
        tensor(0.6667)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    known: Tensor
    total: Tensor

    def __init__(
        self,
        words: Collection[str],
        decode: Callable[[Tensor], list[str]],
        *,
        min_length: int = 2,
    ) -> None:
        super().__init__()
        if len(words) == 0:
            raise ValueError(
                "`words` must hold at least one word, got none; "
                "pass `split_words(text)` of a text that has words."
            )
        if min_length < 1:
            raise ValueError(
                f"`min_length` must be at least 1, got {min_length}; 1 counts every word."
            )
        self.words = frozenset(word.casefold() for word in words)
        self.decode = decode
        self.min_length = min_length
        self.add_state("known", default=torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, tokens: Int[Tensor, "B L"]) -> None:
        """Count the words of a batch of sequences.

        Args:
            tokens: Generated sequences, with shape (B, L).
        """
        for text in self.decode(tokens):
            words = self._whole_words(text)
            self.known += sum(word in self.words for word in words)
            self.total += len(words)

    def compute(self) -> Float[Tensor, ""]:
        """Return the share of known words over all updates, in [0, 1], or nan without words."""
        return self.known / self.total

    def _whole_words(self, text: str) -> list[str]:
        runs = (run for run in _WORD.finditer(text) if run.start() > 0 and run.end() < len(text))
        return [run.group().casefold() for run in runs if len(run.group()) >= self.min_length]
