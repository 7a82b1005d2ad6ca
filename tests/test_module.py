"""`DiscreteDiffusion`: what it logs, draws, saves and refuses."""

import copy
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from torch import Tensor, nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader

from ddm import Absorbing, Gaussian, Kernel, SamplingSchedule, Uniform
from ddm.backbones import MLP, Transformer
from ddm.callbacks import SampleLogger
from ddm.checkpoint import load_model
from ddm.datamodules import CountDown
from ddm.denoisers import ScoreDenoiser
from ddm.estimate import RatioEstimate, spread_times
from ddm.likelihood import sampler_nats
from ddm.losses import CrossEntropy, ScoreEntropy
from ddm.module import DiscreteDiffusion
from ddm.noise import Constant
from ddm.optim import MuonAdamW
from ddm.orders import Spaced
from ddm.samplers import FirstHitting, Reveal

V, L = 4, 6
KERNELS = [Absorbing, Uniform, Gaussian]


def make_module(kernel: Kernel | None = None, **arguments) -> DiscreteDiffusion:
    """A tiny model."""
    arguments = {
        "backbone": partial(MLP, length=L, dim=8, depth=1),
        "length": L,
        "optimizer": partial(AdamW, lr=1e-2),
        **arguments,
    }
    return DiscreteDiffusion(Absorbing(V) if kernel is None else kernel, **arguments)


def make_data(**arguments) -> CountDown:
    """Tiny data: 4 training and 2 validation batches of 8 sequences."""
    return CountDown(V, L, **{"num_samples": 32, "num_val": 16, "batch_size": 8, **arguments})


def make_trainer(folder: Path, **arguments) -> Trainer:
    """A quiet trainer on the CPU."""
    quiet = {
        "accelerator": "cpu",
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "default_root_dir": folder,
    }
    return Trainer(**{**quiet, **arguments})


def tokens_loader(tokens: Tensor, **further: Tensor) -> DataLoader:
    """One batch, as a loader."""
    batch = {"tokens": tokens, **further}
    return DataLoader([batch], batch_size=None)


@pytest.mark.parametrize("kernel", KERNELS)
def test_untrained_bound(kernel: Callable[[int], Kernel], tmp_path: Path) -> None:
    """A network that knows nothing costs log2 V bits per token, up to the noise.

    Six standard errors are allowed, twice in 10^9 runs, and the noise is fixed.
    """
    data = make_data(num_val=4000, batch_size=1000, num_samples=1000)
    module = make_module(kernel(V))
    (metrics,) = make_trainer(tmp_path).validate(module, data, verbose=False)
    error = metrics["val/bits_per_token_error"]
    assert metrics["val/bits_per_token"] == pytest.approx(math.log2(V), abs=6 * error)
    assert error < 0.15


def test_validation_is_deterministic(tmp_path: Path) -> None:
    """Validation repeats its noise and leaves the global random state alone."""
    module, data = make_module(), make_data()
    before = torch.get_rng_state()
    values = []
    for _ in range(2):
        torch.rand(3)
        values += make_trainer(tmp_path).validate(module, data, verbose=False)
        torch.set_rng_state(before)
    assert values[0] == values[1]
    module.eval()
    batch = next(iter(data.val_dataloader()))
    before = torch.get_rng_state()
    module.log = lambda *args, **kwargs: None
    module.validation_step(batch, 0)
    module.training_step(batch, 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_training_learns(tmp_path: Path) -> None:
    """Training lowers the bound; CountDown has far less entropy than uniform tokens."""
    module, data = make_module(), make_data(num_samples=256)
    torch.manual_seed(0)
    trainer = make_trainer(tmp_path, max_epochs=4)
    trainer.fit(module, data)
    assert trainer.callback_metrics["val/bits_per_token"] < 1.8
    assert "train/loss" in trainer.callback_metrics


def test_bound_of_ratios() -> None:
    """Ratios of a network are judged by their own bound, whatever the training loss."""
    module = make_module(Uniform(V), denoiser=ScoreDenoiser, loss=CrossEntropy())
    assert isinstance(module.bound, ScoreEntropy)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_low_precision(precision: str, tmp_path: Path) -> None:
    """Training, validation and samples work in bfloat16."""
    module = make_module(Gaussian(V), backbone=partial(Transformer, dim=8, depth=1, num_heads=2))
    trainer = make_trainer(tmp_path, precision=precision, callbacks=SampleLogger(2, [2]))
    trainer.fit(module, make_data())
    assert math.isfinite(trainer.callback_metrics["val/bits_per_token"])


class Table(nn.Module):
    """One row of logits per token: what torch compiles without the shape checks of the suite."""

    def __init__(self, num_states: int) -> None:
        super().__init__()
        self.rows = nn.Embedding(num_states, num_states)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The logits."""
        return self.rows(x_t)


def test_compiled_backbone(tmp_path: Path) -> None:
    """A backbone compiled in place trains, beside weight averaging, and keeps its names."""

    def compiled(num_states: int) -> Table:
        network = Table(num_states)
        network.compile(backend="eager")
        return network

    module = make_module(backbone=compiled)
    ema = EMAWeightAveraging(use_buffers=False)
    trainer = make_trainer(tmp_path, callbacks=ema, accumulate_grad_batches=2)
    trainer.fit(module, make_data())
    assert trainer.global_step == 2
    assert list(module.state_dict()) == ["denoiser.backbone.rows.weight"]


@pytest.mark.parametrize("kernel", KERNELS)
def test_sample(kernel: Callable[[int], Kernel]) -> None:
    """Samples are data tokens, keep the prompt, cost N calls and depend on the generator alone."""
    module = make_module(kernel(V)).train()
    tokens = torch.randint(V, (3, L))
    free = torch.rand(3, L) < 0.5
    draws = [
        module.sample(
            3,
            schedule,
            tokens=tokens,
            free=free,
            generator=torch.Generator().manual_seed(0),
        )
        for schedule in (module.schedule(4), 4)
    ]
    assert torch.equal(draws[0].tokens, draws[1].tokens)
    assert torch.equal(draws[0].tokens[~free], tokens[~free])
    assert draws[0].num_calls == 4
    assert draws[0].tokens.max() < V
    assert module.training
    with pytest.raises(ValueError, match="`num_samples` must be at least 1, got 0"):
        module.sample(0, module.schedule(4))
    with pytest.raises(ValueError, match="`tokens` and `free` must be given together"):
        module.sample(3, 4, tokens=tokens)
    with pytest.raises(ValueError, match="a row for each of the 2 samples"):
        module.sample(2, 4, tokens=tokens, free=free)


def test_schedule_source_is_no_state() -> None:
    """A callback may replace the source of schedules; nothing of it is saved."""
    module = make_module()
    assert module.schedule(3) == SamplingSchedule.uniform(3)
    keys = module.state_dict().keys()
    module.schedule_source = SamplingSchedule.cosine
    assert module.schedule(3) == SamplingSchedule.cosine(3)
    assert module.state_dict().keys() == keys


def test_copies_leave_the_factories_alone() -> None:
    """Weight averaging copies the module; what the command line made is not copied along."""
    copied = []

    class Factory:
        def __call__(self, *args):
            raise AssertionError("not needed here")

        def __deepcopy__(self, memo):
            copied.append(self)
            return self

    module = make_module(optimizer=Factory(), lr_scheduler=Factory())
    copied.clear()
    copy.deepcopy(module)
    assert not copied


@pytest.mark.parametrize("kernel", KERNELS)
def test_bits_do_not_depend_on_batches(kernel: Callable[[int], Kernel], tmp_path: Path) -> None:
    """Batch size and seed change nothing; the error is that of a mean over sequences."""
    module, found = make_module(kernel(V)), []
    for batch_size, seed in ((1, 0), (8, 1), (24, 2)):
        torch.manual_seed(seed)
        data = make_data(num_val=24, num_samples=24, batch_size=batch_size)
        found += make_trainer(tmp_path).validate(module, data, verbose=False)
    for metrics in found:
        for name in ("val/bits_per_token", "val/bits_per_token_error"):
            # float32 sums in another order
            assert metrics[name] == pytest.approx(found[0][name], rel=1e-6)
        # The path of the sampler depends on the batch: of 6 standard errors.
        name = "val/sampler_bits_per_token"
        assert abs(metrics[name] - found[0][name]) < 6 * found[0][f"{name}_error"]


def test_likelihood_of_the_sampler(tmp_path: Path) -> None:
    """Validation logs what the first 64 sequences cost the sampler, here exactly.

    Without chance in the order it is the likelihood of these, along the schedule of the module.
    """
    data = make_data(num_val=72, batch_size=40)
    sampler = Reveal(Spaced(jitter=0.0))
    module = make_module(sampler=sampler, num_calls=3)
    for weight in module.parameters():  # at first a network says the same of all sequences
        nn.init.normal_(weight)
    nats = sampler_nats(
        module.denoiser, sampler, data.val_tokens[:64].long(), SamplingSchedule.cosine(3)
    )
    module.schedule_source = SamplingSchedule.cosine
    metrics = make_trainer(tmp_path).validate(module, data, verbose=False)[0]
    bits, error = nats.mean() / L / math.log(2), nats.std() / 8 / L / math.log(2)
    assert metrics["val/sampler_bits_per_token"] == pytest.approx(float(bits), rel=1e-5)
    assert metrics["val/sampler_bits_per_token_error"] == pytest.approx(float(error), rel=1e-4)


@pytest.mark.parametrize(
    "arguments", [{"num_calls": 0}, {"sampler": FirstHitting(), "num_calls": 3}]
)
def test_no_likelihood_of_the_sampler(arguments: dict[str, Any], tmp_path: Path) -> None:
    """It is left out on request, and where a schedule does not say how many calls there are."""
    module = make_module(**arguments)
    metrics = make_trainer(tmp_path).validate(module, make_data(num_val=24), verbose=False)[0]
    assert metrics.keys() == {"val/bits_per_token", "val/bits_per_token_error"}


def test_shape() -> None:
    """Orders without axes of their own get those of the data; axes have to make up the length."""
    module = make_module(sampler=Reveal(Spaced()), shape=(2, L // 2))
    assert repr(module.sampler) == repr(Reveal(Spaced((2, L // 2))))
    with pytest.raises(ValueError, match=rf"`shape` must multiply to `length`, {L}, got \(2, 2\)"):
        make_module(shape=(2, 2))


def test_more_draws_lower_the_error(tmp_path: Path) -> None:
    """With 16 draws a sequence, errors are 4 times smaller, and the two values agree.

    Of 6 standard errors of the difference; data, network and noise are fixed.
    """
    data = make_data(num_val=64)
    one, many = (
        make_trainer(tmp_path).validate(make_module(num_draws=n), data, verbose=False)[0]
        for n in (1, 16)
    )
    value, error = "val/bits_per_token", "val/bits_per_token_error"
    assert one[error] / many[error] == pytest.approx(4, rel=0.5)
    assert abs(one[value] - many[value]) < 6 * one[error]


def test_estimate() -> None:
    """The error is that of a ratio: with equal lengths, of the mean; in parts, of the whole."""
    x, n = torch.rand(50, dtype=torch.float64), torch.randint(1, 9, (50,))
    whole, parts = RatioEstimate(), RatioEstimate()
    whole.update(x, n)
    for rows in (slice(0, 7), slice(7, 50)):
        parts.update(x[rows], n[rows])
    ratio, error = whole.compute()
    assert parts.compute() == pytest.approx((ratio, error))
    assert ratio == pytest.approx(float(x.sum() / n.sum()))
    # Of the delta method: the residuals have the mean 0.
    residuals = x - ratio * n
    assert error == pytest.approx(float(residuals.std() * 50**0.5 / n.sum()))
    equal = RatioEstimate()
    equal.update(x, torch.full_like(n, 4))
    assert equal.compute() == pytest.approx((float(x.mean()) / 4, float(x.std() / 50**0.5) / 4))
    assert all(math.isnan(value) for value in RatioEstimate().compute())


def test_spread_times() -> None:
    """However many there are, times fill (0, 1] far more evenly than independent ones would."""
    for num in (10, 100, 1000):
        t = spread_times(torch.arange(num)).sort().values
        assert 0 < t[0]
        assert t[-1] <= 1
        # The discrepancy of golden steps is below log(num) / num.
        middle = (torch.arange(num) + 0.5) / num
        assert float((t - middle).abs().max()) < math.log(num) / num


def test_predict(tmp_path: Path) -> None:
    """Prediction draws one sample per sequence and keeps the given tokens."""
    module = make_module(num_steps=2)
    tokens, free = torch.full((5, L), 2), torch.arange(L).expand(5, -1) >= 2
    loaders = [tokens_loader(tokens), tokens_loader(tokens, free=free)]
    trainer = make_trainer(tmp_path)
    drawn, kept = (trainer.predict(module, loader)[0] for loader in loaders)
    assert drawn.shape == (5, L)
    assert (kept[:, :2] == 2).all()


def test_predict_with_a_data_module(tmp_path: Path) -> None:
    """A data module of ours gives one sample per test sequence."""
    data = make_data()
    drawn = make_trainer(tmp_path).predict(make_module(num_steps=1), data)
    assert sum(len(tokens) for tokens in drawn) == len(data.test_tokens)


@pytest.mark.parametrize("kernel", KERNELS)
def test_prompt(kernel: Callable[[int], Kernel]) -> None:
    """Training and validation keep the prompt clean, and log nats and bits per free token.

    They are those of the other tokens alone, for a network that looks at one token at a time.
    """
    module = make_module(kernel(V))
    data = make_data()
    data.prompt_length = 2
    batch = next(iter(data.val_dataloader()))
    seen: list[tuple[Tensor, ...]] = []
    module.denoiser.register_forward_pre_hook(lambda _, arguments: seen.append(arguments))
    values: dict[str, float] = {}
    module.log = lambda name, value, **_: values.update({name: float(value)})  # type: ignore[method-assign]
    module.training_step(batch, 0)
    module.validation_step(batch, 0)
    module.on_validation_epoch_end()
    for name in ("train/loss", "val/bits_per_token", "val/bits_per_token_error"):
        assert math.isfinite(values[name])
    x_0, denoiser = batch["tokens"], module.denoiser
    names = ("train/loss", "val/bits_per_token")
    for (x_t, t, _), loss, name in zip(seen[:2], (module.loss, module.bound), names, strict=True):
        assert torch.equal(x_t[:, :2], x_0[:, :2])
        assert not torch.equal(x_t[:, 2:], x_0[:, 2:])
        nats = loss.value(denoiser(x_t, t).positions(slice(2, L)), x_0[:, 2:]).sum()
        expected = nats / (len(x_0) * (L - 2)) / math.log(2)
        assert values[name] == pytest.approx(expected.item(), rel=1e-6)


def test_learning_rate(tmp_path: Path) -> None:
    """The rate grows over the warm-up and then follows the cosine to zero."""
    module = make_module(
        optimizer=partial(SGD, lr=1.0), warmup_steps=2, lr_scheduler=CosineAnnealingLR
    )
    module.trainer = make_trainer(tmp_path, max_steps=6, max_epochs=-1)
    configured = module.configure_optimizers()
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(7):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    decay = [(1 + math.cos(math.pi * k / 4)) / 2 for k in range(5)]
    assert rates == pytest.approx([1 / 3, 2 / 3, *decay])


class Rates(Callback):
    """Remembers the learning rate of every step."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


@pytest.mark.parametrize("warmup_steps", [0, 3])
@pytest.mark.parametrize("optimizer", [AdamW, MuonAdamW])
def test_resumed_runs_follow_their_own_settings(
    optimizer: type, warmup_steps: int, tmp_path: Path
) -> None:
    """The learning rate is a function of settings, step and length, whatever the checkpoint says.

    So a finished run that goes on for longer, or with another rate, does not climb back.
    """

    def fit(epochs: int, lr: float = 1.0, checkpoint: Path | None = None, **arguments: object):
        seen = Rates()
        model = make_module(
            optimizer=partial(optimizer, lr=lr), warmup_steps=warmup_steps, **arguments
        )
        trainer = make_trainer(tmp_path, max_epochs=epochs, callbacks=seen)
        trainer.fit(model, make_data(), ckpt_path=checkpoint)
        trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return seen.rates

    decay = {"lr_scheduler": CosineAnnealingLR}
    fit(2, **decay)
    first = tmp_path / "2.ckpt"
    longer = fit(4, **decay)
    assert fit(4, checkpoint=first, **decay) == pytest.approx(longer[8:], rel=1e-9)
    slower = fit(4, 0.1, checkpoint=first, **decay)
    assert slower == pytest.approx([rate / 10 for rate in longer[8:]], rel=1e-9)
    assert fit(3, 0.1, checkpoint=first) == pytest.approx([0.1] * 4)


def test_resumed_runs_that_change_nothing(tmp_path: Path) -> None:
    """Settings that are the same leave the state of the checkpoint alone, to the last bit."""
    followed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ddm.module.follow", lambda *arguments: followed.append(arguments))
        for checkpoint in (None, tmp_path / "a.ckpt"):
            module = make_module(lr_scheduler=CosineAnnealingLR, warmup_steps=2)
            trainer = make_trainer(tmp_path, max_epochs=2)
            trainer.fit(module, make_data(), ckpt_path=checkpoint)
            trainer.save_checkpoint(tmp_path / "a.ckpt")
        tuned = make_module(optimizer=partial(AdamW, lr=1e-5))
        tuned.on_load_checkpoint(torch.load(tmp_path / "a.ckpt", weights_only=True))
        make_trainer(tmp_path).fit(tuned, make_data())  # begins anew with the weights
    assert not followed


def test_averages_that_begin_late(tmp_path: Path) -> None:
    """Until averaging begins, the average is the weights: in validation, files, and at the end."""
    seen: list[float] = []

    class Spy(DiscreteDiffusion):
        def on_validation_epoch_start(self) -> None:
            seen.append(float(self.denoiser.backbone.out.weight.norm()))

    runs = []
    for callbacks in ([], [EMAWeightAveraging(use_buffers=False, update_starting_at_step=1000)]):
        torch.manual_seed(0)
        module = Spy(
            Uniform(V),
            partial(MLP, length=L, dim=8, depth=1),
            length=L,
            optimizer=partial(AdamW, lr=1e-2),
        )
        saver = ModelCheckpoint(tmp_path / str(len(runs)), save_top_k=-1)
        trainer = make_trainer(
            tmp_path, max_epochs=2, callbacks=[*callbacks, saver], enable_checkpointing=True
        )
        trainer.fit(module, make_data())
        files = sorted((tmp_path / str(len(runs))).glob("*.ckpt"))
        weights = [torch.load(f, weights_only=True)["state_dict"] for f in files]
        runs.append((seen.copy(), weights, module.state_dict()))
        seen.clear()
    (plain, files, end), (averaged, their_files, their_end) = runs
    assert plain == averaged
    assert len(files) == 2
    for mine, theirs in zip([*files, end], [*their_files, their_end], strict=True):
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_learning_rate_needs_an_end(tmp_path: Path) -> None:
    """A decay over a run without an end is refused."""
    module = make_module(lr_scheduler=CosineAnnealingLR)
    module.trainer = make_trainer(tmp_path, max_epochs=-1)
    module.trainer.fit_loop.max_batches = 4
    module.trainer.strategy._lightning_module = module
    with pytest.raises(ValueError, match="`lr_scheduler` needs a finite number"):
        module.configure_optimizers()


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.full((2, L), V), "must lie in 0..3, the kernel's vocabulary, got values from 4"),
        (torch.full((2, L), -1), "must lie in 0..3"),
        (torch.zeros(2, L + 1, dtype=torch.long), "must have shape"),
    ],
)
def test_wrong_tokens(tokens: Tensor, message: str, tmp_path: Path) -> None:
    """Data that the model is not made for are refused at the first batch."""
    trainer = make_trainer(tmp_path)
    with pytest.raises(ValueError, match=f"`tokens` {message}"):
        trainer.fit(make_module(), tokens_loader(tokens), tokens_loader(tokens))


@pytest.mark.parametrize("make", [dict, tuple, Tensor])
def test_foreign_batches(make: type, tmp_path: Path) -> None:
    """Tokens of any integer type, alone, first of several, or as Hugging Face collates them."""
    tokens = torch.randint(V, (8, L), dtype=torch.int32)
    batches = {
        dict: {"input_ids": tokens, "attention_mask": torch.ones(8, L, dtype=torch.long)},
        tuple: (tokens, torch.zeros(8)),
        Tensor: tokens,
    }
    loader: DataLoader = DataLoader([batches[make]] * 2, batch_size=None)
    module = make_module()
    make_trainer(tmp_path, max_epochs=1).fit(module, loader, loader)
    assert module.trainer.global_step == 2


def test_padded_batches(tmp_path: Path) -> None:
    """Padding is neither noised nor counted, whatever stands there; rows may have any length."""
    module = make_module(backbone=partial(Transformer, dim=8, depth=1, num_heads=1))
    tokens = torch.randint(V, (6, 5))
    mask = torch.arange(5) < torch.tensor([5, 4, 3, 2, 1, 5])[:, None]
    seen: list[Tensor] = []
    module.denoiser.register_forward_pre_hook(lambda _, arguments: seen.append(arguments))
    values: dict[str, Tensor] = {}
    module.log = lambda name, value, **_: values.update({name: value})  # type: ignore[method-assign]
    loss = module.training_step({"input_ids": tokens, "attention_mask": mask.long()}, 0)
    x_t, t, free = seen[0]
    assert torch.equal(x_t[~mask], tokens[~mask])
    assert torch.equal(free, mask)
    nats = module.loss.value(module.denoiser(x_t, t, free), tokens).sum()
    assert loss.item() == pytest.approx(nats.item() / int(mask.sum()), rel=1e-6)
    rests = {"input_ids": tokens.where(mask, -100), "attention_mask": mask.long()}
    module.training_step(rests, 0)  # as collators fill them up
    assert torch.equal(seen[-1][0].where(mask, 0), x_t.where(mask, 0))


@pytest.mark.filterwarnings("ignore:Total length of:UserWarning")
def test_empty_data(tmp_path: Path) -> None:
    """An empty data set is an error, not a run that ends at once."""
    empty: DataLoader = DataLoader([], batch_size=None)
    with pytest.raises(ValueError, match="`train_dataloader` must give at least one batch"):
        make_trainer(tmp_path).fit(make_module(), empty, empty)


@pytest.mark.parametrize(("every", "step"), [(2, 2), (3, 3), (100, 4), (0, 4)])
def test_nan_loss(every: int, step: int, tmp_path: Path) -> None:
    """A run whose weights have become NaN stops when losses are logged, or its epoch ends."""
    module = make_module()
    torch.nn.init.constant_(module.denoiser.backbone.out.weight, math.nan)
    trainer = make_trainer(tmp_path, log_every_n_steps=every)
    with pytest.raises(ValueError, match=f"`loss` must be finite, got NaN or inf at step {step}"):
        trainer.fit(module, make_data())


def test_nan_looks_across_epochs(tmp_path: Path) -> None:
    """Steps count over all epochs, and weights that break in the last step write no checkpoint."""

    class Breaks(Callback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            if trainer.global_step == 8:
                torch.nn.init.constant_(pl_module.denoiser.backbone.out.weight, math.nan)

    trainer = make_trainer(
        tmp_path,
        max_epochs=4,
        callbacks=[Breaks(), ModelCheckpoint(tmp_path, save_last=True)],
        enable_checkpointing=True,
    )
    with pytest.raises(ValueError, match="`val/bits_per_token` must be finite, got NaN"):
        trainer.fit(make_module(), make_data())
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 4


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_broken_weights_are_not_saved(value: float, tmp_path: Path) -> None:
    """Checkpoints by step are written before the loss is looked at; the last good one stays."""

    class Breaks(Callback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            if trainer.global_step == 3:
                torch.nn.init.constant_(pl_module.denoiser.backbone.out.weight, value)

    kept = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, save_last=True)
    callbacks = [Breaks(), kept]
    trainer = make_trainer(tmp_path, callbacks=callbacks, enable_checkpointing=True)
    with pytest.raises(ValueError, match="`weights` must be finite, got NaN or inf at step 3"):
        trainer.fit(make_module(), make_data())
    found = [torch.load(path, weights_only=True) for path in tmp_path.glob("*.ckpt")]
    assert sorted(content["global_step"] for content in found) == [1, 2, 2]
    assert all(w.isfinite().all() for content in found for w in content["state_dict"].values())


def test_samplers_have_to_fit() -> None:
    """A sampler that reveals masks is refused at once where there are none."""
    with pytest.raises(ValueError, match="`kernel` must be absorbing for a sampler that reveals"):
        make_module(Uniform(V), sampler=FirstHitting())


def test_checkpoint_of_a_module_made_in_python(tmp_path: Path) -> None:
    """Objects stay out of the checkpoint; who made them passes them again."""
    parts = {
        "backbone": lambda num_states: MLP(num_states, length=L, dim=8, depth=1),
        "optimizer": partial(AdamW, lr=1e-2),
    }
    module, path = make_module(**parts), tmp_path / "model.ckpt"
    trainer = make_trainer(tmp_path)
    trainer.fit(module, make_data())
    trainer.save_checkpoint(path)
    loaded = DiscreteDiffusion.load_from_checkpoint(path, kernel=Absorbing(V), **parts)
    for name, value in module.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    for wrong in ({"kernel": Uniform(V + 1)}, {"kernel": Absorbing(V), "noise": Constant()}):
        with pytest.raises(ValueError, match="must be the one that the checkpoint was trained"):
            DiscreteDiffusion.load_from_checkpoint(path, **parts, **wrong)
    wider = {**parts, "backbone": lambda num_states: MLP(num_states, length=L, dim=9, depth=1)}
    with pytest.raises(ValueError, match=r"`backbone` must be .* differ \(size mismatch for den"):
        DiscreteDiffusion.load_from_checkpoint(path, kernel=Absorbing(V), **wider)
    with pytest.raises(ValueError, match="`checkpoint` must hold a `DiscreteDiffusion` with its"):
        load_model(path)


class Order(EMAWeightAveraging):
    """Weight averaging in which the averages are zero, so that they can be told apart."""

    def update_zero(self) -> None:
        """Set the averages to zero."""
        for p in self._average_model.module.parameters():
            p.data.zero_()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: DiscreteDiffusion) -> None:
        """Nothing to update."""

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: DiscreteDiffusion) -> None:
        """Zero the averages, then swap."""
        self.update_zero()
        super().on_validation_epoch_start(trainer, pl_module)


@pytest.mark.parametrize("first", [True, False])
def test_samples_use_averaged_weights(first: bool, tmp_path: Path) -> None:
    """Samples are drawn from the averaged weights, wherever the callback stands in the list."""
    seen = []

    class Spy(DiscreteDiffusion):
        def sample(self, *args, **kwargs):
            seen.append(sum(float(p.abs().sum()) for p in self.parameters()))
            return super().sample(*args, **kwargs)

    module = Spy(Absorbing(V), partial(MLP, length=L, dim=8, depth=1), length=L, optimizer=AdamW)
    callbacks = [SampleLogger(2, [2]), Order(use_buffers=False)]
    callbacks = callbacks if first else callbacks[::-1]
    make_trainer(tmp_path, callbacks=callbacks).fit(module, make_data())
    assert seen == [0.0]


def test_sample_logger(tmp_path: Path) -> None:
    """Samples come every n-th epoch, equal for equal weights, and off the global random state."""
    tokens, states = [], []

    class Spy(DiscreteDiffusion):
        def sample(self, *args, **kwargs):
            states.append(torch.get_rng_state())
            samples = super().sample(*args, **kwargs)
            tokens.append(samples.tokens)
            return samples

        def on_validation_epoch_end(self):
            states.append(torch.get_rng_state())

    module = Spy(
        Absorbing(V),
        partial(MLP, length=L, dim=8, depth=1),
        length=L,
        optimizer=partial(SGD, lr=0.0),
    )
    logger = SampleLogger(3, [1, 2], every_n_epochs=2)
    trainer = make_trainer(tmp_path, max_epochs=4, callbacks=logger)
    trainer.fit(module, make_data())
    assert len(tokens) == 4  # 2 of 4 epochs, 2 numbers of steps
    assert torch.equal(tokens[0], tokens[2])
    assert torch.equal(tokens[1], tokens[3])
    assert torch.equal(states[1], states[3])  # before the first samples, after the last ones
    for n in (1, 2):
        assert 0 <= trainer.callback_metrics[f"samples/countdown_error_{n}"] <= 1


def test_sample_logger_in_validation_alone(tmp_path: Path) -> None:
    """`trainer.validate` logs the metrics of samples, whatever the period in training."""
    trainer = make_trainer(tmp_path, callbacks=SampleLogger(2, [2], every_n_epochs=10))
    (metrics,) = trainer.validate(make_module(), make_data(), verbose=False)
    assert "samples/countdown_error_2" in metrics


def test_sample_logger_without_epochs(tmp_path: Path) -> None:
    """Where validation comes after a number of batches, every one of them draws samples."""
    arguments = {"val_check_interval": 1, "check_val_every_n_epoch": None, "max_epochs": 1}
    logger = SampleLogger(2, [2], every_n_epochs=10)
    trainer = make_trainer(tmp_path, callbacks=logger, **arguments)
    trainer.fit(make_module(), make_data())
    assert "samples/countdown_error_2" in trainer.callback_metrics


def test_sample_logger_without_metrics(tmp_path: Path) -> None:
    """Any data module will do, also one that neither decodes nor measures."""

    class Plain(LightningDataModule):
        def train_dataloader(self):
            return tokens_loader(torch.zeros(2, L, dtype=torch.long))

        val_dataloader = train_dataloader

    make_trainer(tmp_path, callbacks=SampleLogger(2, [1])).fit(make_module(), Plain())


@pytest.mark.parametrize(
    "arguments", [{"num_samples": 0}, {"num_steps": [4, 0]}, {"every_n_epochs": 0}]
)
def test_sample_logger_domain(arguments: dict) -> None:
    """Numbers out of their domain are refused by name."""
    (name,) = arguments
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
        SampleLogger(**arguments)
