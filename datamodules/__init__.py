"""Data sets as Lightning data modules: integer tokens in, batches `{"tokens": (B, L)}` out."""

from ddm.datamodules.countdown import CountDown, chain_entropy, countdown_chain, sample_chain
from ddm.datamodules.sequences import SequenceDataModule, TokenSequences
from ddm.datamodules.text import CharacterVocabulary, Text, trigram_sample

__all__ = [
    "CharacterVocabulary",
    "CountDown",
    "SequenceDataModule",
    "Text",
    "TokenSequences",
    "chain_entropy",
    "countdown_chain",
    "sample_chain",
    "trigram_sample",
]
