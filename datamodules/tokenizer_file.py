"""The tokens of a model that somebody else trained."""

from pathlib import Path

from tokenizers import Tokenizer, processors

from ddm.datamodules.corpus import Corpus
from ddm.datamodules.vocabularies import BPE


class TokenizerFile(BPE):
    """The tokens of a model that somebody else trained, from its `tokenizer.json`.

    Special tokens keep their numbers, and are never put around a text.

    Args:
        text: Not looked at: the tokens are always the same.
        file: The file, as the package tokenizers writes it.

    Example:
        >>> from ddm.datamodules import BPE, TokenizerFile
        >>> BPE("the dog, the door, the day").tokenizer.save("tokenizer.json")
        >>> vocabulary = TokenizerFile(file="tokenizer.json")
        >>> vocabulary.decode(vocabulary.encode("the dog")[None])
        ['the dog']
    """

    def __init__(self, text: str | Corpus = "", *, file: str) -> None:
        try:
            self.tokenizer = Tokenizer.from_str(Path(file).read_text(encoding="utf-8"))
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(
                f"`file` must be a `tokenizer.json`, got '{file}' ({error}); models of "
                "transformers write one with `tokenizer.save_pretrained(folder)`."
            ) from error
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.tokenizer.post_processor = processors.Sequence([])
