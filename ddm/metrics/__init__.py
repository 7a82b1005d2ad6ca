"""Metrics of generated samples, as `torchmetrics.Metric` classes that take tokens."""

from ddm.metrics.countdown_error import CountDownError
from ddm.metrics.distinct_n import DistinctN
from ddm.metrics.frechet_distance import PCA, FrechetDistance
from ddm.metrics.generative_perplexity import GenerativePerplexity
from ddm.metrics.inception import Inception
from ddm.metrics.note_histogram import NoteHellinger, NoteOutliers
from ddm.metrics.unigram_entropy import UnigramEntropy
from ddm.metrics.word_share import WordShare, split_words

__all__ = [
    "PCA",
    "CountDownError",
    "DistinctN",
    "FrechetDistance",
    "GenerativePerplexity",
    "Inception",
    "NoteHellinger",
    "NoteOutliers",
    "UnigramEntropy",
    "WordShare",
    "split_words",
]
