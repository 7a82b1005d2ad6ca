"""Data sets as Lightning data modules: integer tokens in, batches `{"tokens": (B, L)}` out."""

from ddm.datamodules.countdown import CountDown, chain_entropy, countdown_chain, sample_chain
from ddm.datamodules.documents import Documents, HuggingFace, Shards
from ddm.datamodules.images import Images
from ddm.datamodules.midi import Midi
from ddm.datamodules.music import melody, tokens_to_midi
from ddm.datamodules.rows import Rows
from ddm.datamodules.sequences import SequenceDataModule, TokenSequences
from ddm.datamodules.text import Text
from ddm.datamodules.text_stream import TextStream
from ddm.datamodules.tokenizer_file import TokenizerFile
from ddm.datamodules.trigrams import trigram_sample
from ddm.datamodules.vocabularies import (
    BPE,
    CharacterVocabulary,
    GPT2Vocabulary,
    Text8Vocabulary,
    Vocabulary,
)

__all__ = [
    "BPE",
    "CharacterVocabulary",
    "CountDown",
    "Documents",
    "GPT2Vocabulary",
    "HuggingFace",
    "Images",
    "Midi",
    "Rows",
    "SequenceDataModule",
    "Shards",
    "Text",
    "Text8Vocabulary",
    "TextStream",
    "TokenSequences",
    "TokenizerFile",
    "Vocabulary",
    "chain_entropy",
    "countdown_chain",
    "melody",
    "sample_chain",
    "tokens_to_midi",
    "trigram_sample",
]
