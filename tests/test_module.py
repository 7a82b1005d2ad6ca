"""`DiscreteDiffusion`: what it logs, draws, saves and refuses."""

import copy
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
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
from ddm.losses import CrossEntropy, ScoreEntropy
from ddm.module import DiscreteDiffusion
from ddm.noise import Constant

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

    The bound of 1,000 sequences has a standard deviation of at most .24 bits per token (measured),
    that of 20,000 of .054; 6 of them are allowed, twice in 10^9 runs, and the noise is fixed.
    """
    data = make_data(num_val=20_000, batch_size=1000, num_samples=1000)
    module = make_module(kernel(V))
    (metrics,) = make_trainer(tmp_path).validate(module, data, verbose=False)
    assert metrics["val/bits_per_token"] == pytest.approx(math.log2(V), abs=0.32)


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


def test_predict(tmp_path: Path) -> None:
    """Prediction draws one sample per sequence and keeps the given tokens."""
    module = make_module(num_steps=2)
    tokens, free = torch.full((5, L), 2), torch.arange(L).expand(5, -1) >= 2
    loaders = [tokens_loader(tokens), tokens_loader(tokens, free=free)]
    trainer = make_trainer(tmp_path)
    drawn, kept = (trainer.predict(module, loader)[0] for loader in loaders)
    assert drawn.shape == (5, L)
    assert (kept[:, :2] == 2).all()


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
    values: dict[str, Tensor] = {}
    module.log = lambda name, value, **_: values.update({name: value.detach()})  # type: ignore[method-assign]
    module.training_step(batch, 0)
    module.validation_step(batch, 0)
    assert set(values) == {"train/loss", "val/bits_per_token"}
    x_0, denoiser = batch["tokens"], module.denoiser
    for (x_t, t, _), loss, name in zip(seen[:2], (module.loss, module.bound), values, strict=True):
        assert torch.equal(x_t[:, :2], x_0[:, :2])
        assert not torch.equal(x_t[:, 2:], x_0[:, 2:])
        nats = loss.value(denoiser(x_t, t).positions(2, L), x_0[:, 2:]).sum()
        expected = nats / (len(x_0) * (L - 2)) / math.log(2)
        assert float(values[name]) == pytest.approx(expected.item(), rel=1e-6)


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


@pytest.mark.filterwarnings("ignore:Total length of:UserWarning")
def test_empty_data(tmp_path: Path) -> None:
    """An empty data set is an error, not a run that ends at once."""
    empty: DataLoader = DataLoader([], batch_size=None)
    with pytest.raises(ValueError, match="`train_dataloader` must give at least one batch"):
        make_trainer(tmp_path).fit(make_module(), empty, empty)


def test_nan_loss(tmp_path: Path) -> None:
    """A run whose weights have become NaN stops."""
    module = make_module()
    torch.nn.init.constant_(module.denoiser.backbone.out.weight, math.nan)
    trainer = make_trainer(tmp_path, log_every_n_steps=2)
    with pytest.raises(ValueError, match="`loss` must be a number, got NaN at step 2"):
        trainer.fit(module, make_data())


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
