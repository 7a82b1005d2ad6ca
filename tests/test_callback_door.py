"""What the schedule callback refuses at the door, and what it survives afterwards."""

import math

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from torch import nn
from torch.utils.data import DataLoader

from cases import SAMPLERS, label
from ddm.batch import tokens_of
from ddm.callbacks import JYSScheduleCallback
from ddm.callbacks.door import probe
from ddm.callbacks.recent import RecentSequences
from ddm.denoisers import MeanDenoiser, NoTime
from ddm.kernels import Absorbing
from ddm.noise import LogLinear
from ddm.process import ForwardProcess
from ddm.samplers import FirstHitting
from ddm.schedules import Decision, OptimalSteps, SamplingSchedule
from test_jys_callback import SMALL, L, Spy, V, data, module, trainer

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")


class Foreign(LightningModule):
    """Somebody else's masked model, which clamps whatever it is given."""

    def __init__(self, outputs: int = V):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = nn.Embedding(V + 1, 8), nn.Linear(8, outputs)

    def forward(self, x_t, t):
        h = self.embedding(x_t.clamp(0, V))
        return self.head(h + h.mean(1, keepdim=True))

    def training_step(self, batch, batch_idx):
        return self(tokens_of(batch), None)[..., 0].square().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


def rows(num: int = 32, length: int = L) -> torch.Tensor:
    """Return sequences that count up."""
    return (torch.arange(num)[:, None] + torch.arange(length)) % V


def foreign(**arguments) -> JYSScheduleCallback:
    """Return a callback for `Foreign`, which updates after two steps."""
    process = ForwardProcess(Absorbing(V), LogLinear())
    settings = {
        "denoiser": lambda m: MeanDenoiser(m, process),
        "optimizer": OptimalSteps(**SMALL),
        "every_n_steps": 2,
        "num_samples": 16,
    }
    return JYSScheduleCallback((2,), **(settings | arguments))


@pytest.mark.parametrize(
    "tokens",
    [
        rows().to(torch.uint8),
        rows().short(),
        [{"input_ids": row} for row in rows()],
        [{"tokens": row} for row in rows().int()],
    ],
)
def test_any_integers(tokens, tmp_path):
    """Tokens of any integer type, bare or named, give the schedules of int64 tokens."""
    found = []
    for batches in (rows(), tokens):
        callback = foreign()
        trainer(tmp_path, callback, epochs=1).fit(Foreign(), DataLoader(batches, batch_size=16))
        found.append(callback.schedule(2))
    assert found[0].source != "custom"
    assert found[0] == found[1]


def test_padding_beside_tokens_of_another_name(tmp_path):
    """What `tokens=` finds has the attention mask of its batch: padding is never free."""
    mask = (torch.arange(L) < L - 1).long()
    batches = [{"text": row, "attention_mask": mask} for row in rows()]
    callback = foreign(tokens=lambda batch: batch["text"])

    class Reads(Foreign):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch["text"], batch_idx)

    trainer(tmp_path, callback, epochs=1).fit(Reads(), DataLoader(batches, batch_size=16))
    assert len(callback.updates) == 1
    _, free = callback._recent.latest()
    assert torch.equal(free, mask.bool().expand(16, -1))


@pytest.mark.parametrize("name", ["uniform", "cosine"])
def test_previous_steps_of_a_known_kind_are_called_so(name, tmp_path, monkeypatch):
    """Uniform steps that stay in use are uniform steps, not some previous schedule."""
    kept = getattr(SamplingSchedule, name)(2)
    decision = Decision("previous", kept, {name: 1.0}, gain=0.0, gain_error=0.0, confidence=0.5)
    monkeypatch.setattr("ddm.callbacks.update.choose", lambda *args: decision)
    callback = foreign()
    trainer(tmp_path, callback, epochs=1).fit(Foreign(), DataLoader(rows(), batch_size=16))
    assert [row["winner"] for row in callback.history] == [name]


class Broken(Foreign):
    """A network that returns NaN."""

    def forward(self, x_t, t):
        return super().forward(x_t, t) * math.nan


@pytest.mark.parametrize(
    ("model", "tokens", "arguments", "message"),
    [
        (Foreign(), rows() + 1, {}, r"`tokens` must lie in 0..3, .* got values from 1 to 4"),
        (Foreign(), rows() - 100, {}, r"`tokens` must lie in 0..3, .* from -100 to -97"),
        (Foreign(), rows().float(), {}, r"`tokens` must be integers, got torch\.float32"),
        (Foreign(), rows()[:, :, None], {}, r"`tokens` must have the shape \(B, L\)"),
        (Foreign(), [{"text": row} for row in rows()], {}, "or the callback"),
        (Foreign(7), rows(), {}, r"must return logits of the shape \(4, 8, 5\)"),
        (Broken(), rows(), {}, "must return finite outputs"),
        (Foreign(), rows(), {"free": lambda b: torch.ones(16, L)}, "`free` must be boolean"),
        (Foreign(), rows(), {"free": lambda b: torch.ones(L, dtype=bool)}, "`free` must be bool"),
    ],
)
def test_what_does_not_fit_is_refused_at_the_first_batch(
    model, tokens, arguments, message, tmp_path
):
    """Nothing is trained before somebody is told what to write instead."""
    run = trainer(tmp_path, foreign(**arguments), epochs=1)
    with pytest.raises((TypeError, ValueError), match=message):
        run.fit(model, DataLoader(tokens, batch_size=16))
    assert run.global_step == 0


@pytest.mark.parametrize("sampler", SAMPLERS, ids=label)
@pytest.mark.parametrize("some", [False, True])
def test_the_probe_is_cheap(sampler, some):
    """It makes one call, and those of one step, on four sequences, with every sampler."""
    rows_seen = []

    class Counts(Foreign):
        def forward(self, x_t, t):
            rows_seen.append(len(x_t))
            return super().forward(x_t, t)

    denoiser = MeanDenoiser(Counts(), ForwardProcess(Absorbing(V), LogLinear()))
    free = torch.arange(L).expand(32, -1) > 2 if some else None
    with torch.no_grad():
        probe(denoiser, sampler, rows(), free)
    assert len(rows_seen) <= 5
    assert max(rows_seen) <= 4


def test_samplers_have_to_fit(tmp_path):
    """A sampler that does not fit the kernel is refused at the first batch, too."""
    callback = JYSScheduleCallback((2,), sampler=FirstHitting())
    with pytest.raises(ValueError, match="`kernel` must be absorbing for a sampler that reveals"):
        trainer(tmp_path, callback, epochs=1).fit(module(), data())


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("no memory left"),
        IndexError("no memory left"),
        KeyError("no memory left"),
        AssertionError("no memory left"),
        NotImplementedError("no memory left"),
    ],
)
def test_failures_are_no_end(error, tmp_path):
    """Whatever fails in an update, training goes on with the old schedules."""

    class Fails(Spy):
        def __call__(self, *args, **kwargs):
            raise error

    callback = JYSScheduleCallback((2,), optimizer=Fails(), num_samples=16, every_n_epochs=1)
    run = trainer(tmp_path, callback, epochs=1)
    with pytest.warns(UserWarning, match="not updated at step 4, the old.*no memory left"):
        run.fit(module(), data())
    assert run.global_step == 4
    assert callback.schedule(2) == SamplingSchedule.uniform(2)
    assert callback.history == []


def test_an_interrupt_is_an_end(tmp_path):
    """What is no error of the update is not caught."""

    class Stops(Spy):
        def __call__(self, *args, **kwargs):
            raise SystemExit(3)

    callback = JYSScheduleCallback((2,), optimizer=Stops(), num_samples=16)
    with pytest.raises(SystemExit):
        trainer(tmp_path, callback, epochs=1).fit(module(), data())


def test_drawing_may_fail(tmp_path, monkeypatch):
    """Schedules are kept although they cannot be drawn or logged."""

    def fail(*args):
        raise RuntimeError("no ink")

    for name in ("log_pictures", "log_numbers"):
        monkeypatch.setattr(f"ddm.callbacks.report.{name}", fail)
    callback = foreign()
    with (
        pytest.warns(UserWarning, match="cannot be drawn, training goes on: no ink"),
        pytest.warns(UserWarning, match="cannot be logged, training goes on: no ink"),
    ):
        trainer(tmp_path, callback, epochs=1).fit(Foreign(), DataLoader(rows(), batch_size=16))
    assert len(callback.history) == 1


def test_nan_keeps_the_old_schedule(tmp_path):
    """A network that comes to return NaN costs an update, not the run; the time is named."""

    class Breaks(Callback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            if trainer.global_step == 3:
                nn.init.constant_(pl_module.head.weight, math.nan)

    callback = foreign()
    run = trainer(tmp_path, Breaks(), callback, epochs=1)
    with pytest.warns(UserWarning, match=r"old ones stay: .*NaN or infinite values .* at t = "):
        run.fit(Foreign(), DataLoader(rows(64), batch_size=16))
    assert [h["step"] for h in callback.history] == [2]


def test_what_gives_no_denoiser_is_refused(tmp_path):
    """A function that returns the network itself is refused before training, with the remedy."""
    run = trainer(tmp_path, foreign(denoiser=lambda m: m.head), epochs=1)
    with pytest.raises(TypeError, match=r"`denoiser` must be a `Denoiser`, got Linear.*wrap the"):
        run.fit(Foreign(), DataLoader(rows(), batch_size=16))
    assert run.global_step == 0


def test_wrong_rows_are_left_out(tmp_path):
    """One row with tokens of no meaning, in a late batch, costs the updates that row alone."""
    tokens = rows(96)
    tokens[50, 3] = V + 1  # in the fourth batch of six
    callback = foreign(num_samples=64, every_n_steps=6, max_share=100.0)
    with pytest.warns(UserWarning, match="1 sequences are left out"):
        trainer(tmp_path, callback, epochs=1).fit(Foreign(), DataLoader(tokens, batch_size=16))
    assert callback.history[0]["step"] == 6
    table = callback.optimized.table
    assert table.num_samples + table.num_held_out == 63


class Still(Foreign):
    """A network that does not learn."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.mark.parametrize("rest", [-100, V])
def test_rests_in_padding_are_harmless(rest, tmp_path):
    """Where `attention_mask` is 0 the mask or -100 give the schedules that padding gives."""
    found = []
    for value in (0, rest):
        tokens, exists = rows(), torch.arange(L) < 5
        batches = [{"input_ids": x.where(exists, value), "attention_mask": exists} for x in tokens]
        callback = foreign()
        trainer(tmp_path, callback, epochs=1).fit(Still(), DataLoader(batches, batch_size=16))
        found.append(callback.optimized.table.excess)
    assert found[0].any()
    assert (found[0] == found[1]).all()


def test_odd_batches_in_between(tmp_path):
    """A batch without tokens is left out, with a warning."""
    batches = [rows(16), rows(16), {"input_ids": rows(16), "odd": rows(1)}, rows(16)]
    callback = foreign(tokens=lambda batch: None if isinstance(batch, dict) else batch)
    with pytest.warns(UserWarning, match="Schedules do without batch 2"):
        trainer(tmp_path, callback, epochs=1).fit(Foreign(), DataLoader(batches, batch_size=None))
    assert [h["step"] for h in callback.history] == [2, 4]


def test_batches_of_different_lengths(tmp_path):
    """They are measured together where the denoiser knows its padding, else the most frequent."""
    seen = []

    class Sizes(Spy):
        def __call__(self, denoiser, sampler, x_0, *args, **settings):
            free = settings["free"]
            seen.append((tuple(x_0.shape), None if free is None else int(free.sum())))
            return super().__call__(denoiser, sampler, x_0, *args, **settings)

    class Padded(Foreign):
        def forward(self, x_t, attention_mask=None):
            return super().forward(x_t, None)

    batches = [rows(16, 6), rows(16, 8), rows(8, 8), rows(8, 5)]
    process = ForwardProcess(Absorbing(V), LogLinear())
    settings = {"every_n_steps": 4, "num_samples": 48, "max_share": 100.0, "optimizer": Sizes()}
    for pad in (None, 0):

        def denoiser(m, pad=pad):
            return MeanDenoiser(m, process, time=NoTime(), pad=pad)

        callback = foreign(denoiser=denoiser, **settings)
        run = trainer(tmp_path, callback, epochs=1)
        run.fit(Padded(), DataLoader(batches, batch_size=None))
        assert [h["step"] for h in callback.history] == [4]
    assert seen == [((24, 8), None), ((48, 8), 16 * 6 + 24 * 8 + 8 * 5)]


def test_recent_sequences():
    """The latest sequences stay, just enough batches of them, with their masks."""
    recent = RecentSequences(10)
    assert recent.latest()[0].numel() == 0
    for k in range(5):
        free = torch.arange(3).expand(4, -1) > 0 if k == 3 else None
        recent.add(torch.full((4, 3), k), free)
    x_0, free = recent.latest()
    assert x_0[:, 0].tolist() == [2] * 2 + [3] * 4 + [4] * 4
    assert free.sum(-1).tolist() == [3] * 2 + [2] * 4 + [3] * 4
    assert len(recent._batches) == 3


def test_a_second_fit_starts_with_empty_hands(tmp_path):
    """No sequence of the first fit is left in the second one, whatever its length."""
    spy = Spy()
    lengths = []
    call = Spy.__call__

    class Lengths(Spy):
        def __call__(self, denoiser, sampler, x_0, *args, **settings):
            lengths.append((tuple(x_0.shape), int(x_0.float().mean())))
            return call(spy, denoiser, sampler, x_0, *args, **settings)

    callback = foreign(optimizer=Lengths(), every_n_steps=1, num_samples=64)
    for value, length in ((1, 6), (1, 8), (2, 8)):
        tokens = torch.full((16, length), value)
        run = trainer(tmp_path, callback, epochs=1)
        run.fit(Foreign(), DataLoader(tokens, batch_size=16))
    assert lengths == [((16, 6), 1), ((16, 8), 1), ((16, 8), 2)]


def test_averages_that_have_not_begun(tmp_path):
    """Before averaging begins the weights in training are measured, not a copy of the first."""
    seen = []

    def denoiser(model):
        seen.append(float(model.denoiser.backbone.out.weight.detach().norm()))
        return model.denoiser

    ema = EMAWeightAveraging(decay=0.5, use_buffers=False, update_starting_at_step=1000)
    callback = JYSScheduleCallback(
        (2,), optimizer=Spy(), denoiser=denoiser, every_n_steps=4, num_samples=16
    )
    model = module()
    first = float(model.denoiser.backbone.out.weight.detach().norm())
    trainer(tmp_path, ema, callback, epochs=1).fit(model, data())
    assert seen[0] == first
    assert seen[-1] != first
    assert seen[-1] == float(model.denoiser.backbone.out.weight.detach().norm())
