"""Metrics of generated samples, on hand-made sequences and against enumeration."""

import itertools
import math
import sys
from collections import Counter

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric

from ddm.datamodules import Text, countdown_chain
from ddm.metrics import (
    CountDownError,
    DistinctN,
    GenerativePerplexity,
    UnigramEntropy,
    WordShare,
    split_words,
)


def value(metric: Metric, *batches: Tensor | list[list[int]]) -> float:
    """Return what the metric computes after one update per batch."""
    for batch in batches:
        metric.update(torch.as_tensor(batch))
    return metric.compute().item()


def decode_ascii(tokens: Tensor) -> list[str]:
    """Return the strings of code points."""
    return ["".join(map(chr, row)) for row in tokens.tolist()]


def encode_ascii(*texts: str) -> Tensor:
    """Return the code points of strings of equal length."""
    return torch.tensor([list(map(ord, text)) for text in texts])


@pytest.mark.parametrize(
    ("sequence", "broken"),
    [
        ([3, 2, 1, 0, 3, 2], 0),
        ([0, 0, 0, 3, 2, 1], 0),
        ([3, 1, 0, 2, 1, 0], 1),
        ([3, 3, 2, 1, 0, 0], 1),
        ([1, 2, 3, 1, 3, 2], 4),  # the pairs after a broken pair count too
        ([0, 4, 3, 2, 1, 0], 2),  # 4 is the mask: broken as the second and as the first token
        ([0, -1, 0, 1, 0, 2], 2),
    ],
)
def test_countdown_error_counts_all_pairs(sequence, broken):
    """Every adjacent pair counts once, broken or not."""
    assert value(CountDownError(4), [sequence]) == pytest.approx(broken / 5)


def test_countdown_error_on_the_smoothed_chain():
    """E[error] = eps (1 - 1/V) mean_l P(x_l > 0) over l < L, by enumeration of all sequences."""
    vocab_size, length, smoothing = 3, 4, 0.3
    initial, transition = countdown_chain(vocab_size, smoothing)
    expected = 0.0
    for x in itertools.product(range(vocab_size), repeat=length):
        prob = initial[x[0]] * math.prod(transition[a, b] for a, b in itertools.pairwise(x))
        expected += prob.item() * value(CountDownError(vocab_size), [list(x)])
    marginals = [initial @ torch.matrix_power(transition, n) for n in range(length - 1)]
    positive = sum(1 - marginal[0].item() for marginal in marginals) / (length - 1)
    # The metric divides in float32.
    assert expected == pytest.approx(smoothing * (1 - 1 / vocab_size) * positive, rel=1e-6)


def test_unigram_entropy_equals_the_definition():
    """The mean over samples of -sum p log p of the token frequencies inside of each sample."""
    tokens = torch.randint(7, (5, 12), generator=torch.Generator().manual_seed(0))
    expected = 0.0
    for row in tokens.tolist():
        frequencies = [count / len(row) for count in Counter(row).values()]
        expected -= sum(p * math.log(p) for p in frequencies) / len(tokens)
    assert value(UnigramEntropy(), tokens) == pytest.approx(expected, rel=1e-12)


def test_unigram_entropy_extremes():
    """One repeated token scores 0, L different tokens score log L."""
    assert value(UnigramEntropy(), [[5] * 8, [2] * 8]) == 0
    assert value(UnigramEntropy(), [list(range(8))]) == pytest.approx(math.log(8))


@pytest.mark.parametrize(
    ("n", "batches", "expected"),
    [
        (1, [[[1, 1, 2, 2]]], 2 / 4),
        (2, [[[1, 2, 1, 2]]], 2 / 3),
        (2, [[[1, 2, 1, 2], [2, 1, 2, 3]]], 3 / 6),  # no bigram spans two sequences
        (2, [[[1, 2, 1, 2]], [[2, 1, 2, 3]]], 3 / 6),
        (4, [[[1, 2, 3, 4], [1, 2, 3, 5]]], 1.0),
    ],
)
def test_distinct_n(n, batches, expected):
    """Different n-grams over all n-grams, over all sequences of all updates."""
    assert value(DistinctN(n), *batches) == pytest.approx(expected)


def test_split_words():
    """Words are maximal runs of letters in lower case."""
    assert split_words("Don't PANIC_42: naïve Straße!") == [
        *("don", "t", "panic", "naïve", "strasse"),
    ]
    assert split_words("42 _ -") == []


def test_word_share_counts_whole_words():
    """Runs at the border and short runs are left out; every other occurrence counts."""
    known = {"Cat", "sat"}
    #                       cut    known, too short, known, unknown, cut
    tokens = encode_ascii("the cat a SAT dot sa")
    assert value(WordShare(known, decode_ascii), tokens) == pytest.approx(2 / 3)
    assert value(WordShare(known, decode_ascii, min_length=1), tokens) == pytest.approx(2 / 4)
    assert value(WordShare(known, decode_ascii), tokens, tokens) == pytest.approx(2 / 3)


def test_word_share_of_the_text_itself_is_one():
    """Every window of a text holds words of that text only."""
    text = "It is a truth universally acknowledged, that a single man in possession of a fortune"
    windows = encode_ascii(*(text[start : start + 20] for start in range(len(text) - 19)))
    assert value(WordShare(split_words(text), decode_ascii), windows) == 1


def test_word_share_without_words_is_nan():
    """A share of nothing is not a number."""
    assert math.isnan(value(WordShare({"cat"}, decode_ascii), encode_ascii("1 2 3")))


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    """Return the folder of a random GPT-2 with a context of 8 tokens, which are words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("gpt2")
    words = {word: i for i, word in enumerate(["?", "a", "b", "ab", "ba", "bb"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?").save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"vocab_size": 6, "n_positions": 8, "n_embd": 8, "n_layer": 2, "n_head": 2}
    config = GPT2Config(**sizes, initializer_range=1.0, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def test_generative_perplexity_is_the_exponential_of_the_cross_entropy(language_model):
    """All predictions of all samples count alike; the first word of a context is given."""
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(language_model).eval()
    texts = ["ab ba b", "b bb ba", "a b a b", "ba    ?"]  # 3, 3, 4 and 2 words
    words = [[3, 4, 2], [2, 5, 4], [1, 2, 1, 2], [4, 0]]
    nats = 0.0
    for row in words:
        for i in range(1, len(row)):  # each prediction from its own call
            logits = model(torch.tensor([row[:i]])).logits[0, -1].double()
            nats -= logits.log_softmax(dim=0)[row[i]].item()
    metric = GenerativePerplexity(decode_ascii, str(language_model))
    expected = math.exp(nats / (2 + 2 + 3 + 1))
    assert expected > 1.5
    # The model calculates in float32.
    assert value(metric, encode_ascii(*texts)) == pytest.approx(expected, rel=1e-4)
    metric.reset()
    assert value(metric, *encode_ascii(*texts).split(1)) == pytest.approx(expected, rel=1e-4)


def test_generative_perplexity_in_windows(language_model):
    """What is longer than the context is measured in parts; one word is no prediction."""
    metric = GenerativePerplexity(decode_ascii, str(language_model))
    text = "a b b a b a a a"
    once = value(metric, encode_ascii(text))
    metric.reset()
    assert value(metric, encode_ascii(f"{text} {text} b")) == pytest.approx(once, rel=1e-6)
    assert metric.total == 14
    metric.reset()
    assert math.isnan(value(metric, encode_ascii("a ")))


def test_generative_perplexity_needs_a_model_and_its_package(tmp_path, monkeypatch):
    """Errors name the argument and the extra."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("none", "none.gguf"):
        with pytest.raises(ValueError, match=r"`language_model` must be a folder or GGUF file"):
            GenerativePerplexity(decode_ascii, str(tmp_path / name))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"extra `generative`.*'discrete-diffusion\[generative\]'"):
        GenerativePerplexity(decode_ascii, "gpt2")


def test_text_measures_generative_perplexity(language_model):
    """It stands beside the entropy and distinct n-grams where a language model is named."""
    tokens = torch.zeros(2, 20).long()
    measured = Text(language_model=str(language_model), length=20).measure(tokens, tokens)
    beside = {"generative_perplexity", "unigram_entropy", "distinct_4"}
    assert beside <= set(measured)
    assert "generative_perplexity" not in Text(length=20).metrics()


@pytest.mark.parametrize(
    "metric",
    [CountDownError(4), UnigramEntropy(), DistinctN(2), WordShare({"ab"}, decode_ascii)],
    ids=lambda metric: type(metric).__name__,
)
def test_metrics_do_not_depend_on_the_batches(metric):
    """Splitting the samples into updates changes nothing, and `reset` forgets them."""
    tokens = encode_ascii(" ab b", " ba b", " ab a", "b  bb")
    whole = value(metric, tokens)
    metric.reset()
    assert value(metric, *tokens.split(1)) == pytest.approx(whole)
    metric.reset()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CountDownError(1), r"`vocab_size` must be at least 2, got 1; "),
        (lambda: DistinctN(0), r"`n` must be at least 1, got 0; "),
        (lambda: WordShare(set(), decode_ascii), r"`words` must hold .*got none; "),
        (lambda: WordShare({"a"}, decode_ascii, min_length=0), r"`min_length` .*got 0; "),
        (lambda: value(CountDownError(4), [[1]]), r"`tokens` must .*\(1, 1\); generate longer"),
        (lambda: value(DistinctN(3), [[1, 2]]), r"`tokens` must .*\(1, 2\); generate longer"),
        (lambda: value(UnigramEntropy(), torch.zeros(2, 0).long()), r"`tokens` .*\(2, 0\); gen"),
    ],
)
def test_errors(make, message):
    """Errors name the argument, the rule, the value and the remedy."""
    with pytest.raises(ValueError, match=message):
        make()
