"""Data modules: the law of CountDown, the splits of Text, and what all of them promise."""

import gzip
import itertools
import math
import re
from functools import partial

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from ddm.datamodules import (
    BPE,
    CharacterVocabulary,
    CountDown,
    GPT2Vocabulary,
    Images,
    SequenceDataModule,
    Text,
    Text8Vocabulary,
    chain_entropy,
    countdown_chain,
    sample_chain,
    trigram_sample,
)
from ddm.datamodules.vocabularies import _pieces
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


def cpu_trainer(epochs: int) -> Trainer:
    """Return a silent trainer that writes nothing by itself."""
    return Trainer(
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


# Text


def test_text_tokens_decode_to_the_text():
    """Encoding and decoding are inverse; the vocabulary is sorted; the mask becomes U+FFFD."""
    text = "naïve 日本 𝄞\n"
    vocabulary = CharacterVocabulary(text)
    assert list(vocabulary.characters) == sorted(set(text))
    tokens = vocabulary.encode(text)
    assert tokens.dtype == torch.int64
    assert vocabulary.decode(tokens[None]) == [text]
    assert vocabulary.decode(torch.tensor([[0, len(vocabulary), -1]])) == ["\n\ufffd\ufffd"]


def test_text_splits_partition_the_documents():
    """The splits are whole topics, in order, of about the sizes asked for."""
    data = small_text(val_fraction=0.1)
    text = data.train_text + data.val_text + data.test_text
    assert 0.03 < len(data.val_text) / len(text) < 0.17
    assert 0.03 < len(data.test_text) / len(text) < 0.17
    # Topics end with a blank line.
    assert data.train_text.endswith("\n\n")
    assert data.val_text.endswith("\n\n")
    assert "".join(sorted(set(text))) == data.vocabulary.characters


def test_builtin_text_does_not_leak():
    """No window of 100 held-out characters stands anywhere in the training text."""
    data = small_text()
    for tokens in (data.val_tokens, data.test_tokens):
        for window in data.decode(tokens):
            assert window not in data.train_text


def test_text_windows_cover_their_split():
    """Training windows overlap by half, the others not at all; a last, partial one is dropped."""
    data = small_text()
    train = data.decode(data.train_tokens[:3])
    assert train == [data.train_text[start : start + 100] for start in (0, 50, 100)]
    held_out = "".join(data.decode(data.val_tokens))
    assert held_out == data.val_text[: len(data.val_text) // 100 * 100]


def test_text_reads_files(tmp_path):
    """One file is cut at the character; the sorted files of a folder are the documents."""
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a.txt").write_text("0123456789" * 8, encoding="utf-8")
    data = Text(str(tmp_path / "inner" / "a.txt"), length=5, batch_size=2, val_fraction=0.1)
    assert [len(data.train_text), len(data.val_text), len(data.test_text)] == [64, 8, 8]
    (tmp_path / "b.txt").write_text("0" * 9, encoding="utf-8")
    (tmp_path / "z.txt").write_text("z" * 9, encoding="utf-8")
    data = Text(str(tmp_path), length=5, batch_size=2, val_fraction=0.4)
    assert data.train_text == "0" * 9 + "\n"
    assert data.val_text == "0123456789" * 8 + "\n"
    assert data.test_text == "z" * 9 + "\n"


def test_word_share_tells_text_from_trigrams():
    """Held-out text scores 1; training text scores higher than its trigram model."""
    data = small_text()
    trigrams = trigram_sample(
        data.encode(data.train_text), 100, 100, torch.Generator().manual_seed(0)
    )
    shares = {}
    for name, tokens in (
        ("held out", data.val_tokens),
        ("training", data.train_tokens[::67]),
        ("trigrams", trigrams),
    ):
        metric = data.metrics()["word_share_4"]
        metric.update(tokens.long())
        shares[name] = metric.compute().item()
    assert shares["held out"] == 1
    # Measured .62 and .05.
    assert shares["training"] > 0.4 > 0.2 > shares["trigrams"]


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


def test_text_refuses_a_checkpoint_of_other_tokens(tmp_path):
    """Tokens of a checkpoint mean nothing under another vocabulary."""
    path = tmp_path / "a.txt"
    path.write_text("abc" * 30, encoding="utf-8")
    data = Text(str(path), length=3, batch_size=1)
    data.load_state_dict(data.state_dict())
    path.write_text("abd" * 30, encoding="utf-8")
    with pytest.raises(ValueError, match=r"must give the 3 tokens .* first in \('c', 'd'\)"):
        Text(str(path), length=3, batch_size=1).load_state_dict(data.state_dict())


def test_text_reads_gzip(tmp_path):
    """Packed files are read like plain ones; a damaged one is named."""
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(("abc" * 30).encode()))
    for where in (path, tmp_path):
        assert Text(str(where), length=3, batch_size=1).train_text == ("abc" * 27)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"whole gzip files, but .*a\.txt\.gz' is damaged"):
        Text(str(path), length=3, batch_size=1)


def test_text8_spelling():
    """Letters are small, digits are words, all else is one space."""
    vocabulary = Text8Vocabulary()
    assert len(vocabulary) == 27
    tokens = vocabulary.encode("Ab, c-\n42é!")
    assert vocabulary.decode(tokens[None]) == ["ab c four two "]


LINES = "The cat  sat.\n\nOn 12 mats, été!\n    indented\nlast \n end\n" * 40


def bpe_from_files(folder):
    """Return a vocabulary like GPT-2's, from two files, and the one that wrote them."""
    trained = BPE(LINES, 300)
    trained.tokenizer.save_model(str(folder))
    files = {"vocab_file": "vocab.json", "merges_file": "merges.txt"}
    return GPT2Vocabulary(**{k: str(folder / v) for k, v in files.items()}), trained


def test_bpe_round_trip(tmp_path):
    """Decoding gives the text again; the mask shows; files keep every token's number."""
    from_files, trained = bpe_from_files(tmp_path)
    size = len(trained)
    assert 256 < size <= 300
    for vocabulary in (trained, from_files):
        tokens = vocabulary.encode(LINES)
        assert len(tokens) < len(LINES.encode())
        assert tokens.max() < len(vocabulary) == size
        assert vocabulary.decode(tokens[None]) == [LINES]
        masked = torch.tensor([[int(tokens[0]), size, size + 1, -1, int(tokens[1])]])
        begin, end = vocabulary.decode(tokens[None, :1])[0], vocabulary.decode(tokens[None, 1:2])[0]
        assert vocabulary.decode(masked) == [f"{begin}\ufffd\ufffd\ufffd{end}"]
    assert from_files.tokens == trained.tokens
    assert torch.equal(from_files.encode(LINES), trained.encode(LINES))


@pytest.mark.parametrize("size", [1, 7, 50])
def test_pieces_have_the_tokens_of_the_text(tmp_path, size):
    """Where a text is cut for parallel encoding makes no difference to its tokens."""
    vocabulary, _ = bpe_from_files(tmp_path)
    pieces = list(_pieces(LINES, size))
    assert len(pieces) > 1
    assert "".join(pieces) == LINES
    tokens = [token for piece in pieces for token in vocabulary.tokenizer.encode(piece).ids]
    assert tokens == vocabulary.tokenizer.encode(LINES).ids


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


def test_processes_share_the_training_sequences():
    """Two processes see disjoint halves of the data, without a word from Lightning."""

    class Process:
        world_size = 2

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
            "`vocab_file` must be a file that can be read, got 'no.json'",
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


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.txt", None, r"`path` must name an existing file .*absent\.txt'; check"),
        ("empty.txt", b"", r"`path` must hold text, got '.*empty\.txt', which is empty; give"),
        ("latin.txt", b"caf\xe9", r"`path` must hold UTF-8 .*0xe9 at position 3 .*iconv"),
        ("short.txt", b"abc", r"`length` must be at most the 3 tokens of the training split"),
        ("note.md", b"abc", r"`path` must name a folder with `\*\.txt` or .* with none; rename"),
    ],
)
def test_errors_of_files(tmp_path, name, content, message):
    """Errors of files name the path, what is wrong with it, and the remedy."""
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Text(str(path.parent if path.suffix == ".md" else path))
