"""What data modules of text share: a vocabulary, and measures of the text that it gives."""

import json
from abc import abstractmethod
from functools import cached_property
from typing import Any

from jaxtyping import Float, Int, Integer
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics import Metric

from ddm.arrivals import text_arrivals
from ddm.datamodules.corpus import Corpus
from ddm.datamodules.sequences import SequenceDataModule
from ddm.datamodules.vocabularies import CharacterVocabulary, Vocabulary
from ddm.metrics import DistinctN, GenerativePerplexity, UnigramEntropy, WordShare, split_words
from ddm.pictures import text_figure


class TextData(SequenceDataModule):
    """Base class of data modules of text; a concrete class sets what is listed.

    Attributes:
        vocabulary: Turns text into tokens and back.
        language_model: What measures the perplexity of samples, if anything does.
    """

    vocabulary: Vocabulary
    language_model: str | None

    @property
    @abstractmethod
    def val_stream(self) -> Integer[Tensor, " T"]:
        """The tokens of the validation text in a row, with shape (T,)."""

    @property
    @abstractmethod
    def test_stream(self) -> Integer[Tensor, " T"]:
        """The tokens of the test text in a row, with shape (T,)."""

    @classmethod
    def restore(cls, state: dict[str, Any], **arguments: Any) -> "TextData":  # noqa: ANN401
        """Return the data of a checkpoint, with the vocabulary that is kept in it.

        The text is read when its sequences are asked for: samples are shown without it.

        Args:
            state: What `state_dict` returned.
            arguments: Those of the constructor.
        """
        make = arguments.pop("vocabulary", CharacterVocabulary)
        identity = state.get("identity", json.dumps(state["vocabulary"]))
        known = getattr(make, "func", make).from_identity(identity)
        concrete: Any = cls
        return concrete(**arguments, vocabulary=KnownVocabulary(known))

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

    def samples_figure(self, tokens: Int[Tensor, "B L"]) -> Figure:
        """Return samples as text, in letters of one width."""
        return text_figure(self.samples_text(tokens), width=64)

    def arrival_figure(self, states: Int[Tensor, "T M L"]) -> Figure:
        """Return samples as text in which the color of the ground says when a token came."""
        pieces = [self.decode(row[:, None]) for row in states[-1]]
        return text_arrivals(states, [[p.replace("\n", "↵") for p in row] for row in pieces])

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
        return {"vocabulary": self.vocabulary.tokens, "identity": self.vocabulary.identity}

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


class KnownVocabulary:
    """Gives the vocabulary of a checkpoint, for which no text has to be read."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary

    def __call__(self, corpus: Corpus) -> Vocabulary:
        """Return it, whatever the text."""
        return self.vocabulary
