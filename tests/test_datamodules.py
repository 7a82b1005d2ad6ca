"""Data modules: the law of CountDown and of trigrams, and what all of them promise."""

import itertools
import math
import re
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from ddm.datamodules import (
    BPE,
    CharacterVocabulary,
    CountDown,
    GPT2Vocabulary,
    Images,
    SequenceDataModule,
    Text,
    chain_entropy,
    countdown_chain,
    sample_chain,
    trigram_sample,
)
from ddm.metrics import CountDownError

FALSE_ALARM = 1e-6


def chi_square_tail(counts: Tensor, probs: Tensor) -> float:
    """Return P(chi-square >= observed) for counts of independent draws from `probs`."""
    assert (counts[probs == 0] == 0).all()
    counts, probs = counts[probs > 0].double(), probs[probs > 0]
    expected = counts.sum() * probs
    assert expected.min() > 20  # far inside of the range in which the approximation holds
    statistic = ((counts - expected) ** 2 / expected).sum()
    degrees = torch.tensor((len(probs) - 1) / 2, dtype=torch.float64)
    return torch.special.gammaincc(degrees, statistic / 2).item()


def sequence_law(initial: Tensor, transition: Tensor, length: int) -> Tensor:
    """Return the probability of each of the V^L sequences, first token most significant."""
    law = [
        initial[x[0]] * math.prod(transition[a, b] for a, b in itertools.pairwise(x))
        for x in itertools.product(range(len(initial)), repeat=length)
    ]
    return torch.stack([torch.as_tensor(p) for p in law])


def small_countdown(**changes) -> CountDown:
    """Return 50 training and 20 held-out sequences."""
    arguments = {"num_samples": 50, "num_val": 20, "batch_size": 16, **changes}
    return CountDown(8, 40, **arguments)


def small_text(**changes) -> Text:
    """Return the built-in text in windows of 100 characters."""
    return Text(**{"length": 100, "batch_size": 256, **changes})


# What no checkpoint holds, so that whoever loads one gives it again.
OBJECTS = {"vocabulary": partial(BPE, vocab_size=400)}


def small_bpe(**changes) -> Text:
    """Return the built-in text in parts of words."""
    return small_text(**OBJECTS, **changes)


def small_images(**changes) -> Images:
    """Return the built-in digits and their mirror images."""
    return Images(**{"flip": True, "batch_size": 256, **changes})


DATA = pytest.mark.parametrize("make", [small_countdown, small_text, small_bpe, small_images])


class Recorder(LightningModule):
    """Keeps the tokens of every training batch, with the epoch."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, batch["tokens"]))
        return self.weight

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def cpu_trainer(epochs: int, **further) -> Trainer:
    """Return a silent trainer that writes nothing by itself."""
    return Trainer(
        **further,
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


# The chain


def test_chain_is_the_rule():
    """After x > 0 comes x - 1, after 0 a uniform token; smoothing mixes in the uniform law."""
    initial, transition = countdown_chain(4, 0.2)
    rule = torch.tensor(
        [[0.25, 0.25, 0.25, 0.25], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], dtype=torch.float64
    )
    torch.testing.assert_close(initial, torch.full((4,), 0.25, dtype=torch.float64))
    torch.testing.assert_close(transition, 0.8 * rule + 0.2 / 4)
    torch.testing.assert_close(countdown_chain(4)[1], rule)


@pytest.mark.parametrize("smoothing", [0.0, 0.5])
def test_samples_have_the_law_of_the_chain(smoothing):
    """Whole sequences follow the law of the chain: chi-square, false alarm 1e-6."""
    initial, transition = countdown_chain(3, smoothing)
    x = sample_chain(initial, transition, 20_000, 4, torch.Generator().manual_seed(0))
    counts = (x @ torch.tensor([27, 9, 3, 1])).bincount(minlength=81)
    assert chi_square_tail(counts, sequence_law(initial, transition, 4)) > FALSE_ALARM


@pytest.mark.parametrize("smoothing", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("vocab_size", "length"), [(2, 1), (2, 6), (3, 4), (4, 3)])
def test_entropy_equals_enumeration(vocab_size, length, smoothing):
    """The entropy of the chain is -sum p log p over all V^L sequences."""
    chain = countdown_chain(vocab_size, smoothing)
    expected = torch.special.entr(sequence_law(*chain, length)).sum().item()
    assert chain_entropy(*chain, length) == pytest.approx(expected, rel=1e-12)


def test_countdown_data_obey_the_rule():
    """Without smoothing no pair of any split breaks the rule."""
    data = small_countdown()
    for tokens in (data.train_tokens, data.val_tokens, data.test_tokens):
        error = CountDownError(data.vocab_size)
        error.update(tokens)
        assert error.compute() == 0


def test_countdown_is_a_function_of_the_seed():
    """Equal seeds give equal data, whatever the global random state; others give other data."""
    torch.manual_seed(1)
    first = small_countdown(seed=3)
    tokens = first.train_tokens
    torch.manual_seed(2)
    again = small_countdown(seed=3)
    assert torch.equal(again.val_tokens, first.val_tokens)
    assert torch.equal(again.train_tokens, tokens)
    assert not torch.equal(small_countdown(seed=4).train_tokens, tokens)


def test_countdown_splits_are_different_draws():
    """No sequence stands in two splits: 40 tokens of V = 8 do not repeat by chance."""
    data = small_countdown(smoothing=0.5)
    splits = (data.train_tokens, data.val_tokens, data.test_tokens)
    sequences = [tuple(row) for tokens in splits for row in tokens.tolist()]
    assert len(set(sequences)) == len(sequences) == 50 + 20 + 20


def test_trigram_sample_has_the_law_of_the_trigrams():
    """The last trigram of a sample follows that of the circular text: chi-square, alarm 1e-6."""
    text = torch.tensor([0, 1, 0, 2, 0, 1, 1, 0, 1, 2, 2, 2, 0, 1, 0])
    sample = trigram_sample(text, 5_000, 9, torch.Generator().manual_seed(0))
    code = torch.tensor([9, 3, 1])
    circle = torch.stack([text, text.roll(-1), text.roll(-2)], dim=1)
    probs = (circle @ code).bincount(minlength=27) / len(text)
    for start in (0, 1, 6):
        counts = (sample[:, start : start + 3] @ code).bincount(minlength=27)
        assert chi_square_tail(counts, probs.double()) > FALSE_ALARM
    again = trigram_sample(text, 5_000, 9, torch.Generator().manual_seed(0))
    assert torch.equal(again, sample)
    assert trigram_sample(text, 2, 1).shape == (2, 1)


# All of them


@DATA
def test_batches(make):
    """Batches are int64 tokens of shape (B, L) inside of the vocabulary; decode and metrics fit."""
    data = make()
    loaders = [data.train_dataloader(), data.val_dataloader(), data.test_dataloader()]
    for loader in loaders:
        for batch in loader:
            assert list(batch) == ["tokens"]
            tokens = batch["tokens"]
            assert tokens.dtype == torch.int64
            assert tokens.shape[1] == data.length
            assert tokens.min() >= 0
            assert tokens.max() < data.vocab_size
    assert {batch["tokens"].shape[0] for batch in loaders[0]} == {data.batch_size}
    assert sum(len(batch["tokens"]) for batch in loaders[1]) == len(data.val_tokens)
    assert len(data.decode(tokens)) == len(tokens)
    assert all(isinstance(text, str) for text in data.decode(tokens))
    for metric in data.metrics().values():
        metric.update(tokens)
        assert math.isfinite(metric.compute())


@DATA
def test_training_order_is_a_function_of_seed_and_epoch(make):
    """Each epoch visits every sequence once, in an order that the global state cannot change."""
    orders = {}
    for seed, epoch in itertools.product((0, 7), (0, 1)):
        loader = make(batch_size=1, seed=seed).train_dataloader()
        loader.sampler.set_epoch(epoch)
        torch.manual_seed(seed + epoch)
        orders[seed, epoch] = list(loader.sampler)
        torch.manual_seed(99)
        assert list(loader.sampler) == orders[seed, epoch]
        assert sorted(orders[seed, epoch]) == list(range(len(loader.dataset)))
    assert len({tuple(order) for order in orders.values()}) > 2
    assert orders[0, 0] != orders[0, 1]
    assert orders[0, 0] != orders[7, 0]


@DATA
@pytest.mark.filterwarnings("ignore")
def test_resumed_run_sees_the_batches_of_the_uninterrupted_run(make, tmp_path):
    """Resuming at the end of an epoch continues with exactly the next epoch's batches."""
    whole, first, second = Recorder(), Recorder(), Recorder()
    cpu_trainer(2).fit(whole, datamodule=make())
    trainer = cpu_trainer(1)
    trainer.fit(first, datamodule=make())
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    cpu_trainer(2).fit(second, datamodule=make(), ckpt_path=tmp_path / "one.ckpt")
    resumed = first.seen + second.seen
    assert [epoch for epoch, _ in resumed] == [epoch for epoch, _ in whole.seen]
    assert {epoch for epoch, _ in resumed} == {0, 1}
    for (_, expected), (_, tokens) in zip(whole.seen, resumed, strict=True):
        assert torch.equal(tokens, expected)
    objects = OBJECTS if make is small_bpe else {}
    again = type(make()).load_from_checkpoint(tmp_path / "one.ckpt", **objects)
    assert (again.vocab_size, again.length) == (make().vocab_size, make().length)
    assert torch.equal(again.val_tokens, make().val_tokens)


class Stop(Callback):
    """Writes a checkpoint after a number of steps, and ends the run as if it were killed."""

    def __init__(self, step: int, path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, *args) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            raise InterruptedError


@pytest.mark.parametrize("limit", [1.0, 2])
@pytest.mark.parametrize("step", range(1, 6))
@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore")
def test_resuming_inside_of_an_epoch(num_workers, step, limit, tmp_path):
    """No batch is seen twice, none is left out, with workers, too; an epoch has three batches."""
    whole, first, second = Recorder(), Recorder(), Recorder()
    cpu_trainer(3, limit_train_batches=limit).fit(whole, datamodule=small_countdown())
    path = tmp_path / "stopped.ckpt"
    stopped = cpu_trainer(3, limit_train_batches=limit, callbacks=[Stop(step, path)])
    with pytest.raises(InterruptedError):
        stopped.fit(first, datamodule=small_countdown(num_workers=num_workers))
    data = small_countdown(num_workers=num_workers)
    again = cpu_trainer(3, limit_train_batches=limit)
    again.fit(second, datamodule=data, ckpt_path=path, weights_only=True)
    seen = first.seen + second.seen
    assert [epoch for epoch, _ in seen] == [epoch for epoch, _ in whole.seen]
    for (_, expected), (_, tokens) in zip(whole.seen, seen, strict=True):
        assert torch.equal(tokens, expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_workers_see_the_same_batches(tmp_path):
    """With processes that load batches, resuming after an epoch goes on with the next one."""
    whole, first, second = Recorder(), Recorder(), Recorder()
    cpu_trainer(3).fit(whole, datamodule=small_countdown())
    trainer = cpu_trainer(1)
    trainer.fit(first, datamodule=small_countdown(num_workers=2))
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    data = small_countdown(num_workers=2)
    cpu_trainer(3).fit(second, datamodule=data, ckpt_path=tmp_path / "one.ckpt")
    seen = first.seen + second.seen
    assert [epoch for epoch, _ in seen] == [epoch for epoch, _ in whole.seen]
    for (_, expected), (_, tokens) in zip(whole.seen, seen, strict=True):
        assert torch.equal(tokens, expected)


def test_processes_share_the_training_sequences():
    """Two processes see disjoint halves of the data, without a word from Lightning."""

    class Process:
        world_size = 2
        current_epoch = 0

        def __init__(self, rank: int) -> None:
            self.global_rank = rank

    seen = []
    for rank in (0, 1):
        data = small_countdown(batch_size=5)
        data.trainer = Process(rank)
        seen.append(list(data.train_dataloader().sampler))
    assert len(seen[0]) == len(seen[1]) == 25
    assert sorted(seen[0] + seen[1]) == list(range(50))


def test_base_class_is_abstract():
    """A data module without its splits cannot be built."""
    with pytest.raises(TypeError, match="abstract"):
        SequenceDataModule(batch_size=1, num_workers=0, seed=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CountDown(1), "`vocab_size` must be at least 2, got 1;"),
        (lambda: CountDown(4, 1), "`length` must be at least 2, got 1;"),
        (lambda: CountDown(smoothing=1.5), "`smoothing` must lie in [0, 1], got 1.5;"),
        (lambda: CountDown(smoothing=math.nan), "`smoothing` must lie in [0, 1], got nan;"),
        (lambda: CountDown(num_samples=0), "`num_samples` must be at least 1, got 0;"),
        (lambda: CountDown(num_val=0), "`num_val` must be at least 1, got 0;"),
        (lambda: CountDown(batch_size=0), "`batch_size` must be at least 1, got 0;"),
        (lambda: CountDown(num_workers=-1), "`num_workers` must be at least 0, got -1;"),
        (lambda: CountDown(seed=-1), "`seed` must be at least 0, got -1;"),
        (lambda: sample_chain(*countdown_chain(2), 0, 5), "`num` must be at least 1, got 0;"),
        (lambda: chain_entropy(*countdown_chain(2), 0), "`length` must be at least 1, got 0;"),
        (
            lambda: small_countdown(batch_size=51).train_dataloader(),
            "`batch_size` must be at most the number of training sequences per process (50), "
            "got 51; lower it",
        ),
        (lambda: Text(val_fraction=0.5), "`val_fraction` must lie in ]0, 0.5[, got 0.5:"),
        (lambda: Text(length=0), "`length` must be at least 1, got 0;"),
        (lambda: Text(length=10**6), "tokens of the training split"),
        (lambda: Text(length=10**5), "got 100000; shorten the windows"),
        (lambda: BPE("abc", 9), "`vocab_size` must be at least 256, one for every byte, got 9;"),
        (
            lambda: GPT2Vocabulary(vocab_file="no.json", merges_file="no.txt"),
            "`vocab_file` must be an existing file, got 'no.json'",
        ),
        (lambda: CharacterVocabulary(""), "`text` must hold at least one character, got '';"),
        (
            lambda: CharacterVocabulary("abc").encode("a?z!bé\ufffd"),
            "`text` must consist of the 3 characters of the vocabulary, got 5 other(s), such as "
            "'!', '?', 'z', 'é', '\ufffd'; replace them",
        ),
        (lambda: trigram_sample(torch.tensor([1, 2]), 1, 1), "`tokens` must hold at least one"),
        (lambda: trigram_sample(torch.arange(9), 0, 1), "`num` must be at least 1, got 0;"),
    ],
)
def test_errors(make, message):
    """Errors name the argument, the rule, the value and the remedy."""
    with pytest.raises(ValueError, match=re.escape(message)):
        make()
