"""The command line: every shipped configuration, errors, resuming, and samples of a checkpoint."""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from ddm import SamplingSchedule
from ddm.checkpoint import load_data, load_model
from ddm.commands.closing import closing_lines
from ddm.datamodules import BPE, CountDown, tokens_to_midi
from ddm.module import DiscreteDiffusion
from ddm.schedules import Optimized
from ddm.schedules.optimizer import schedules_beside
from image_files import write_idx, write_images

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
V, L = 4, 8

# Four steps per epoch; the callbacks are those of configs/countdown.yaml.
TINY = f"""
seed_everything: 1
data:
  class_path: CountDown
  init_args: {{vocab_size: {V}, length: {L}, num_samples: 32, num_val: 8, batch_size: 8}}
model:
  kernel: Uniform
  backbone:
    class_path: ddm.backbones.Transformer
    init_args: {{dim: 8, depth: 1, num_heads: 2}}
  optimizer:
    class_path: AdamW
    init_args: {{lr: 0.01}}
  lr_scheduler: CosineAnnealingLR
  warmup_steps: 2
trainer:
  accelerator: cpu
  max_epochs: 2
  log_every_n_steps: 2
  enable_progress_bar: false
  enable_model_summary: false
  logger:
    class_path: TensorBoardLogger
    init_args: {{save_dir: runs}}
  callbacks:
    - class_path: EMAWeightAveraging
      init_args: {{decay: 0.5, use_buffers: false}}
    - class_path: ModelCheckpoint
      init_args: {{save_top_k: -1, filename: "{{epoch}}", save_last: true}}
    - class_path: SampleLogger
      init_args: {{num_samples: 4, num_steps: [2]}}
"""


def script(name: str) -> ModuleType:
    """Import the module of a command."""
    return importlib.import_module(f"ddm.commands.{name}")


def train(*args: str) -> DiscreteDiffusion:
    """Run `ddm train fit`."""
    return script("train").main(["fit", *args]).model


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a finished run of two epochs, with its configuration."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.yaml").write_text(TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train("--config=tiny.yaml")
    return folder


@pytest.fixture
def checkpoint(trained: Path) -> Path:
    """The last checkpoint of the run."""
    return trained / "runs/lightning_logs/version_0/checkpoints/last.ckpt"


def shrink(config: dict) -> dict:
    """Make the sizes of a configuration small; what is wired to what stays as it is."""
    config["trainer"]["accelerator"] = "cpu"
    small = {"batch_size": 2, "num_samples": 8, "num_val": 8, "num_steps": [2], "channels": 16}
    small |= {"depth": 1, "num_workers": 0}
    parts = [part.get("init_args", {}) for part in (config["data"], config["model"]["backbone"])]
    for arguments in (*parts, config["schedule"], config["samples"]):
        arguments.update({key: value for key, value in small.items() if key in arguments})
    if "every_n_steps" not in config["schedule"]:
        config["schedule"]["every_n_epochs"] = 2  # a batch of two is too small for an update
    return config


def write_tunes(folder: Path) -> None:
    """Write a few MIDI files, each a scale of its own."""
    folder.mkdir(parents=True)
    for i in range(8):
        tokens_to_midi(30 + i + torch.arange(300) % 12).write(str(folder / f"{i}.mid"))


def write_texts(folder: Path) -> None:
    """Write a few text files, and the two files of a vocabulary like GPT-2's."""
    folder.mkdir(parents=True)
    text = "the quick brown fox jumps over the lazy dog\n" * 20
    for i in range(8):
        (folder / f"{i}.txt").write_text(f"{i}: {text}")
    vocabulary = BPE(text, 270)
    vocabulary.tokenizer.model.save(str(folder))
    vocabulary.tokenizer.save(str(folder / "tokenizer.json"))


def write_network(folder: Path) -> None:
    """Write a tiny network with random weights, of the architecture of SmolLM2."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True}
    LlamaForCausalLM(LlamaConfig(vocab_size=280, **sizes, **heads)).save_pretrained(folder)


def write_shards(folder: Path) -> None:
    """Write two shards of JSON lines, and the two files of a vocabulary like GPT-2's."""
    (folder / "shards").mkdir(parents=True)
    text = "the quick brown fox jumps over the lazy dog\n" * 20
    for shard in range(2):
        lines = [json.dumps({"text": f"{shard}, {line}: {text}"}) for line in range(4)]
        (folder / "shards" / f"{shard}.jsonl").write_text("\n".join(lines))
    BPE(text, 270).tokenizer.model.save(str(folder))


def stand_in(config: dict, folder: Path) -> None:
    """Put small files where a configuration looks for a data set that is not at hand."""
    arguments = config["data"]["init_args"]
    source = arguments.get("source")
    if config["data"]["class_path"] == "Midi":
        write_tunes(folder)
        arguments["path"] = str(folder)
    if config["data"]["class_path"] == "Text" and "path" in arguments:
        write_texts(folder)
        arguments.update(path=str(folder), length=32, val_fraction=0.2)
        files = arguments["vocabulary"]["init_args"]
        files.update({key: str(folder / Path(files[key]).name) for key in files if "file" in key})
    if config["data"]["class_path"] == "TextStream":
        write_shards(folder)
        arguments.update(length=32, num_held_out=4, buffer=8)
        arguments["documents"]["init_args"]["path"] = str(folder / "shards")
        files = arguments["vocabulary"]["init_args"]
        files.update({key: str(folder / Path(files[key]).name) for key in files})
    if "folder" in (network := config["model"]["backbone"]["init_args"]):
        write_network(folder)
        network["folder"] = str(folder)
    if source == "fashion_mnist":
        arguments["root"] = str(folder)
        write_idx(folder)
    elif source == "cifar10":  # its files have checksums
        arguments.update(source=str(folder), val_fraction=0.2)
        write_images(folder, tuple(config["model"]["backbone"]["init_args"]["shape"]), num=20)


def merged(path: Path) -> dict:
    """Read the configurations of the command in a file's header, later ones over earlier ones."""

    def lay(over: dict, under: dict) -> dict:
        both = {key: value for key, value in over.items() if isinstance(value, dict)}
        inner = {key: lay(value, under.get(key) or {}) for key, value in both.items()}
        return {**under, **over, **inner}

    config: dict = {}
    command = re.search(r"^#   ddm train fit (.*)$", path.read_text(), re.M)
    assert command is not None
    names = re.findall(r"--config (\w+)", command[1])
    assert names[-1] == path.stem
    for name in names:
        config = lay(yaml.safe_load((path.parent / f"{name}.yaml").read_text()), config)
    return config


def small(path: Path, folder: Path) -> Path:
    """Write a small version of a configuration."""
    config = shrink(merged(path))
    stand_in(config, folder / "data")
    (folder / path.name).write_text(yaml.safe_dump(config))
    return folder / path.name


FAST = ("--trainer.fast_dev_run=true", "--trainer.precision=32")
IMAGES = [path for path in CONFIGS if "Images" in path.read_text()]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every shipped configuration trains, validates and draws samples."""
    monkeypatch.chdir(tmp_path)
    train(f"--config={small(path, tmp_path)}", *FAST)


@pytest.mark.parametrize("kernel", ["Absorbing", "Uniform"])
@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.stem)
def test_images_with_another_kernel(
    path: Path, kernel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One argument trains an image model with a kernel that its configuration does not have."""
    monkeypatch.chdir(tmp_path)
    module = train(f"--config={small(path, tmp_path)}", *FAST, f"--model.kernel={kernel}")
    assert type(module.process.kernel).__name__ == kernel


def test_features_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A feature network of the user's own goes in by its path, and comes back with the data."""
    (tmp_path / "mynetwork.py").write_text(
        "import torch\n\n\n"
        "class Corners(torch.nn.Module):\n"
        "    def forward(self, images):\n"
        "        return images[:, 0, ::7, ::7].flatten(1).double()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    path = small(ROOT / "configs" / "digits.yaml", tmp_path)
    config = yaml.safe_load(path.read_text())
    once = ("max_epochs", "limit_train_batches", "limit_val_batches", "check_val_every_n_epoch")
    config["trainer"].update(dict.fromkeys(once, 1))
    config["samples"]["every_n_epochs"] = 1
    config["data"]["init_args"]["features"] = "mynetwork.Corners"
    path.write_text(yaml.safe_dump(config))
    run = script("train").main(["fit", f"--config={path}"])
    assert "samples/frechet_corners_2" in run.trainer.callback_metrics
    checkpoint = run.trainer.checkpoint_callback.last_model_path
    with pytest.raises(ValueError, match="`checkpoint` must name classes of ddm or of packages"):
        load_data(checkpoint)
    data = load_data(checkpoint, trust=["mynetwork"])
    assert "frechet_corners" in data.metrics()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--model.kernel=Absorbin", "Absorbin"),
        ("--model.kernl=Absorbing", "model.kernl"),
        ("--data.vocab=3", "vocab"),
        ("--model.kernel.init_args.width=3", "width"),
    ],
)
def test_unknown_name(argument: str, message: str, trained: Path, capsys) -> None:
    """A name that does not exist is refused before anything is built, and shown."""
    with pytest.raises(SystemExit) as exit_info:
        train(f"--config={trained / 'tiny.yaml'}", argument)
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--model.kernel.vocab_size=7"], ("`model.kernel.vocab_size` must be 4", "got 7")),
        (["--model.length=9"], ("`model.length` must not be given", "change `data.length`")),
        (
            ["--config=digits", "--model.backbone.shape=[1,4,16]"],
            ("`model.backbone.shape` must be (1, 8, 8)", '--model.backbone.shape "[1,8,8]"'),
        ),
    ],
)
def test_what_the_data_say(arguments, parts, trained: Path, capsys, monkeypatch) -> None:
    """A value that the data override is refused where it is another one; both are named."""
    monkeypatch.setattr("lightning.pytorch.Trainer.fit", lambda *args, **settings: None)
    train(f"--config={trained / 'tiny.yaml'}", f"--model.kernel.vocab_size={V}")  # says the same
    capsys.readouterr()
    with pytest.raises(SystemExit):
        train(f"--config={trained / 'tiny.yaml'}", *arguments)
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: `")
    assert all(part in error for part in parts), error


OWN = {"EMAWeightAveraging", "ModelCheckpoint", "JYSScheduleCallback", "SampleLogger"}
NONE = ("--ema=null", "--checkpoint=null")


@pytest.mark.parametrize(
    ("arguments", "names", "key", "value"),
    [
        ([], ["EMAWeightAveraging", "ModelCheckpoint"], "ema.init_args.decay", 0.99),
        (NONE, [], "checkpoint", None),
        (["--ema.decay=0.3", NONE[1]], ["EMAWeightAveraging"], "ema.init_args.decay", 0.3),
        (
            [*NONE, "--schedule.num_steps=[2,3]"],
            ["JYSScheduleCallback"],
            "schedule.init_args.num_steps",
            [2, 3],
        ),
        (
            ["--ema=null", "--trainer.callbacks+=ModelCheckpoint"],
            ["ModelCheckpoint"],
            "trainer.callbacks",
            1,
        ),
    ],
)
def test_callbacks_have_keys(arguments, names, key, value, tmp_path: Path, monkeypatch) -> None:
    """A key changes a callback or switches it off; one of its class in the list goes first."""
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load(TINY)
    del config["trainer"]["callbacks"]
    (tmp_path / "bare.yaml").write_text(yaml.safe_dump(config))
    run = script("train").main(["fit", "--config=bare.yaml", *arguments, *FAST])
    found = [type(callback).__name__ for callback in run.trainer.callbacks]
    assert sorted(OWN.intersection(found)) == names
    assert len(found) == len(set(found))
    asked = run.config.fit[key]
    assert (len(asked) if key == "trainer.callbacks" else asked) == value


def test_help_of_a_class(trained: Path, capsys) -> None:
    """The docstring of a class is its help on the command line."""
    with pytest.raises(SystemExit) as exit_info:
        train(f"--config={trained / 'tiny.yaml'}", "--model.kernel.help=Gaussian")
    assert exit_info.value.code == 0
    shown = capsys.readouterr().out
    assert "Discretized Gaussian diffusion" in shown
    assert "Length scale of a jump" in shown


def test_kernel_from_outside(tmp_path: Path, trained: Path, monkeypatch) -> None:
    """A kernel in a file of the user's own trains by its path; V comes from the data."""
    (tmp_path / "mypackage.py").write_text(
        "import torch\n"
        "from ddm.kernels import DenseKernel\n\n\n"
        "class Ring(DenseKernel):\n"
        "    def __init__(self, vocab_size: int, rate: float = 1.0) -> None:\n"
        "        step = rate * torch.eye(vocab_size).roll(1, 0)\n"
        "        super().__init__(step + step.T - 2 * rate * torch.eye(vocab_size))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    module = train(
        f"--config={trained / 'tiny.yaml'}",
        "--trainer.fast_dev_run=true",
        "--model.kernel=mypackage.Ring",
        "--model.kernel.rate=2",
    )
    kernel = module.process.kernel
    assert type(kernel).__name__ == "Ring"
    assert kernel.vocab_size == V
    assert kernel.rate_from(torch.tensor(0))[1] == 2


def test_run_leaves(trained: Path, checkpoint: Path) -> None:
    """A run leaves its configuration, logs and checkpoints, whose parts are rebuilt by class."""
    run = checkpoint.parents[1]
    assert (run / "config.yaml").exists()
    assert list(run.glob("events.out.tfevents.*"))
    module, data = load_model(checkpoint), load_data(checkpoint)
    assert module.length == data.length == L
    assert module.process.kernel.vocab_size == data.vocab_size == V
    assert not module.training
    content = torch.load(checkpoint, weights_only=True)
    assert not any("schedule" in name for name in content["state_dict"])


def test_samples_of_the_log(checkpoint: Path) -> None:
    """TensorBoard has the metrics, the pictures and the text of samples."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(checkpoint.parents[1]))
    events.Reload()
    tags = events.Tags()
    assert {"train/loss", "val/bits_per_token", "samples/countdown_error_2"} <= set(tags["scalars"])
    shown = ["samples/2_steps", "samples/2_steps_path"]
    assert tags["images"] == [*shown, "samples/2_steps_when"]
    assert tags["tensors"] == [f"{name}/text_summary" for name in shown]


def test_checkpoint_has_averaged_weights(checkpoint: Path) -> None:
    """The weights of a checkpoint are the averages; those of training stand beside them."""
    content = torch.load(checkpoint, weights_only=True)
    name = "denoiser.backbone.out.weight"
    loaded = load_model(checkpoint).state_dict()[name]
    assert torch.equal(loaded, content["state_dict"][name])
    assert not torch.equal(loaded, content["current_model_state"][name])


def test_resume_is_exact(trained: Path, checkpoint: Path, tmp_path: Path, monkeypatch) -> None:
    """A run that stopped after one epoch and goes on ends with the same weights, bit for bit."""
    monkeypatch.chdir(tmp_path)
    torch.rand(5)  # the global random state plays no part
    train(
        f"--config={trained / 'tiny.yaml'}",
        f"--ckpt_path={checkpoint.parent / 'epoch=0.ckpt'}",
    )
    resumed = tmp_path / "runs/lightning_logs/version_0/checkpoints/last.ckpt"
    one, two = (torch.load(path, weights_only=True) for path in (checkpoint, resumed))
    assert one["global_step"] == two["global_step"] == 8
    for key in ("state_dict", "current_model_state"):
        for name, value in one[key].items():
            assert torch.equal(value, two[key][name]), (key, name)


@pytest.mark.filterwarnings("ignore::UserWarning")  # the callback's folder has changed
def test_resume_inside_of_an_epoch_is_exact(trained: Path, tmp_path: Path, monkeypatch) -> None:
    """A run that stopped inside of its second epoch ends with the same weights, bit for bit.

    Its learning rate decays, so the loader is made before the place in the epoch is known.
    """
    monkeypatch.chdir(tmp_path)
    arguments = [
        f"--config={trained / 'tiny.yaml'}",
        "--trainer.callbacks+=ModelCheckpoint",
        "--trainer.callbacks.every_n_train_steps=2",
        "--trainer.callbacks.save_top_k=-1",
        "--trainer.callbacks.filename={step}",
    ]
    train(*arguments, "--trainer.callbacks.dirpath=one")
    train(*arguments, "--trainer.callbacks.dirpath=two", "--ckpt_path=one/step=6.ckpt")
    one, two = (torch.load(f"{run}/step=8.ckpt", weights_only=True) for run in ("one", "two"))
    for name, value in one["current_model_state"].items():
        assert torch.equal(value, two["current_model_state"][name]), name


@pytest.mark.filterwarnings("ignore::UserWarning")  # settings and folder are not new
def test_resume_replaces_the_last_checkpoint(trained: Path, tmp_path: Path, monkeypatch) -> None:
    """A run that goes on with other settings of its checkpoints leaves one `last.ckpt`, its own."""
    monkeypatch.chdir(tmp_path)
    arguments = [
        *(f"--config={trained / 'tiny.yaml'}", "--trainer.callbacks=null"),
        *("--checkpoint.dirpath=kept", "--checkpoint.monitor=null"),
    ]
    train(*arguments, "--trainer.max_epochs=1")
    train(*arguments, "--checkpoint.every_n_train_steps=4", "--ckpt_path=kept/last.ckpt")
    assert [path.name for path in Path("kept").glob("last*.ckpt")] == ["last.ckpt"]
    assert torch.load("kept/last.ckpt", weights_only=True)["global_step"] == 8
    # Another run in the same folder replaces nothing.
    train(*arguments, "--trainer.max_epochs=1")
    assert torch.load("kept/last.ckpt", weights_only=True)["global_step"] == 8


def test_sigterm(trained: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """A run that SIGTERM stops has the status 143, says how to go on, and can."""
    monkeypatch.chdir(tmp_path)
    step = DiscreteDiffusion.training_step

    def stopped(module, batch, batch_idx):
        if module.global_step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(module, batch, batch_idx)

    arguments = [f"--config={trained / 'tiny.yaml'}", "--trainer.logger=false"]
    monkeypatch.setattr(DiscreteDiffusion, "training_step", stopped)
    with pytest.raises(SystemExit) as stop:
        train(*arguments)
    monkeypatch.setattr(DiscreteDiffusion, "training_step", step)
    assert stop.value.code == 143
    last = Path("runs/checkpoints/last.ckpt")
    shown = capsys.readouterr().err
    assert "stopped by SIGTERM at step 6; go on with --ckpt_path=" in shown
    assert torch.load(last, weights_only=True)["global_step"] == 4
    assert train(*arguments, f"--ckpt_path={last}").trainer.global_step == 8


def test_last_words_name_what_the_loggers_wrote(trained: Path, tmp_path: Path) -> None:
    """TensorBoard is named where it has files, any logger by its folder, and whom to trust."""
    saved = ModelCheckpoint(tmp_path)
    saved.last_model_path = str(trained / "tiny.yaml")  # any file
    loggers = [CSVLogger(tmp_path, "csv"), TensorBoardLogger(tmp_path, "board")]
    run = Trainer(callbacks=[saved], logger=loggers, accelerator="cpu", enable_progress_bar=False)
    run.strategy.connect(LightningModule())
    run.lightning_module.save_hyperparameters({"kernel": {"class_path": "rings.Ring"}})
    assert closing_lines(run)[2:] == [
        f"log          {tmp_path}/csv/version_0",
        f"TensorBoard  tensorboard --logdir {tmp_path}/board/version_0",
        f"next         ddm sample {saved.last_model_path} --trust rings --num-steps 32",
    ]


def test_checkpoint_of_another_kernel(trained: Path, checkpoint: Path, monkeypatch, capsys) -> None:
    """What the command line asks for holds; a checkpoint that does not fit it is refused."""
    monkeypatch.chdir(trained)
    with pytest.raises(SystemExit):
        train("--config=tiny.yaml", "--model.kernel=Gaussian", f"--ckpt_path={checkpoint}")
    assert "`kernel` must be the one that the checkpoint was" in capsys.readouterr().err


@pytest.fixture
def optimized(checkpoint: Path) -> Iterator[Path]:
    """A file of optimized schedules beside the checkpoint."""
    path = schedules_beside(checkpoint)
    Optimized({3: SamplingSchedule((1.0, 0.3, 0.1, 0.0), "optimal")}).save(path)
    yield path
    path.unlink()


def test_load_schedule(checkpoint: Path, optimized: Path, tmp_path: Path) -> None:
    """The file beside the checkpoint goes before uniform; a choice goes before both."""
    load_schedule = script("sample").load_schedule
    best = SamplingSchedule((1.0, 0.3, 0.1, 0.0), "optimal")
    single = tmp_path / "single.json"
    best.save(single)
    assert load_schedule(checkpoint, 3) == best
    assert load_schedule(checkpoint, 5) == SamplingSchedule.uniform(5)
    assert load_schedule(checkpoint) == SamplingSchedule.uniform(32)
    assert load_schedule(checkpoint, 3, "uniform") == SamplingSchedule.uniform(3)
    assert load_schedule(checkpoint, 3, "cosine") == SamplingSchedule.cosine(3)
    assert load_schedule(checkpoint, None, str(single)) == best
    assert load_schedule(checkpoint, 3, str(optimized)) == best
    for wrong in (single, optimized):
        with pytest.raises(ValueError, match="`num_steps` must be one that"):
            load_schedule(checkpoint, 4, str(wrong))
    with pytest.raises(ValueError, match="`schedule` must be 'uniform', 'cosine' or an existing"):
        load_schedule(checkpoint, 4, "unifrom")


def test_sample(checkpoint: Path, optimized: Path, tmp_path: Path, capsys) -> None:
    """Samples of a checkpoint: prompt kept, calls counted, files written, the seed decides."""
    main = script("sample").main
    common = [str(checkpoint), "--num-samples=5", "--batch-size=3", "--device=cpu"]
    tokens = []
    for out, further in (
        ("a", ["--num-steps=3", "--prompt=3 2"]),
        ("b", ["--num-steps=3", "--prompt=3 2"]),
        ("c", ["--num-steps=3", "--schedule=uniform", "--seed=1"]),
        ("d", ["--num-steps=3", "--infill", "", "3 2 1"]),
        ("e", ["--num-steps=3", "--infill", "1 0 3 2", "3 2 1 0"]),
    ):
        text, picture, numbers = main([*common, f"--out={tmp_path / out}", *further])
        content = np.load(numbers)
        tokens.append(content["tokens"])
        assert len(content["times"]) == 4
        assert len(text.read_text().splitlines()) == 5
        assert picture.read_bytes().startswith(b"\x89PNG")
    assert tokens[0].shape == (5, L)
    assert (tokens[0][:, :2] == [3, 2]).all()
    assert (tokens[3][:, -3:] == [3, 2, 1]).all()
    assert len({tuple(row) for row in tokens[3].tolist()}) > 1
    assert (tokens[4] == [1, 0, 3, 2, 3, 2, 1, 0]).all()
    assert np.array_equal(tokens[0], tokens[1])
    assert not np.array_equal(tokens[0], tokens[2])
    printed = capsys.readouterr().out
    assert "5 samples, 3 steps (optimal schedule), 6 network calls for 2 batch(es)" in printed
    assert "3 steps (uniform schedule)" in printed
    assert str(tmp_path / "a" / "samples.txt") in printed


def test_trajectories(checkpoint: Path, tmp_path: Path) -> None:
    """The first samples are followed from pure noise, one line per state, to what is saved."""
    options = [str(checkpoint), f"--out={tmp_path}", "--num-steps=3", "--batch-size=3"]
    main = script("sample").main
    *_, numbers = main([*options, "--num-samples=5"])
    tokens = np.load(numbers)["tokens"]
    *_, numbers, picture, text = main([*options, "--num-samples=5", "--trajectories=2"])
    assert np.array_equal(np.load(numbers)["tokens"], tokens)
    assert picture.read_bytes().startswith(b"\x89PNG")
    samples = [sample.splitlines() for sample in text.read_text().split("\n\n")]
    assert [len(lines) for lines in samples] == [4, 4]
    for lines, row in zip(samples, tokens.tolist(), strict=False):
        assert lines[0].startswith("t = 1.000  ")
        assert lines[-1] == "t = 0.000  " + " ".join(map(str, row))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--trajectories=-1"],
            "`trajectories` must be a whole number from 0 to 1000000, got '-1'",
        ),
        (["--prompt=x"], "`prompt` must be token numbers"),
        (["--prompt=4"], "`prompt` must hold tokens in 0..3"),
        (["--prompt=" + "0 " * 9], "`prompt` must have 1 to 8 tokens, got 9"),
        (["--infill", "0 1 2 3", "3 2 1 0 3"], "`prompt` must have 1 to 8 tokens, got 9"),
        (["--infill", "", ""], "`prompt` must have 1 to 8 tokens, got 0"),
        (["--infill", "1", "4"], "`prompt` must hold tokens in 0..3"),
        (["--prompt="], "`prompt` must have 1 to 8 tokens, got 0"),
        (["--out=/dev/null"], "`out` must be a folder that can be written, got '/dev/null'"),
        (["--num-steps=1e9"], "`num_steps` must be a whole number from 1 to 10000, got '1e9'"),
        (["--prompt=1", "--infill", "1", "2"], "not allowed with argument"),
        (["--num-samples=0"], "`num_samples` must be a whole number from 1 to 1000000, got '0'"),
        (["--num-steps=0"], "`num_steps` must be a whole number from 1 to 10000, got '0'"),
        (["--schedule=nowhere.json"], "or an existing file, got 'nowhere.json'"),
        (["--device=abacus"], "`device` must be one that this machine has"),
        (["--device=meta"], "`device` must be one that this machine has"),
        (["--device=cuda:99"], "`device` must be one that this machine has"),
    ],
)
def test_sample_errors(
    arguments: list[str], message: str, checkpoint: Path, tmp_path: Path, capsys
) -> None:
    """What cannot work is refused in one line, before any sampling."""
    with pytest.raises(SystemExit):
        script("sample").main([str(checkpoint), f"--out={tmp_path}", *arguments])
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_short_prompt(checkpoint: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    """A prompt that is shorter than those of training is refused: the network never saw such."""
    monkeypatch.setattr(CountDown, "prompt_length", 3)
    with pytest.raises(SystemExit):
        script("sample").main([str(checkpoint), f"--out={tmp_path}", "--prompt=1 0"])
    assert "`prompt` must have 3 to 8 tokens, got 2" in capsys.readouterr().err


def test_unforeseen_errors_keep_their_traceback(checkpoint: Path, monkeypatch, capsys) -> None:
    """An error of the program itself is not dressed up; `--debug` undresses the others."""
    sample = script("sample")
    with pytest.raises(ValueError, match="`prompt` must hold tokens"):
        sample.main([str(checkpoint), "--prompt=9", "--debug"])
    monkeypatch.setattr(sample, "draw", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sample.main([str(checkpoint)])


def test_no_checkpoint(tmp_path: Path, capsys) -> None:
    """A file that is missing or something else is refused in one line."""
    wrong, state = tmp_path / "wrong.ckpt", tmp_path / "state.ckpt"
    wrong.write_text("no checkpoint")
    torch.save({"weight": torch.zeros(1)}, state)
    for path, message in (
        (tmp_path / "none.ckpt", "`checkpoint` must be a file"),
        (wrong, "is damaged or something else"),
        (state, "`checkpoint` must hold a `DiscreteDiffusion` with its settings"),
    ):
        with pytest.raises(SystemExit):
            script("sample").main([str(path)])
        assert message in capsys.readouterr().err


PARTS = ("--data.vocabulary=BPE", "--data.vocabulary.vocab_size=270")


@pytest.mark.parametrize("vocabulary", [(), PARTS], ids=["characters", "BPE"])
def test_text_prompt(vocabulary, tmp_path: Path, monkeypatch) -> None:
    """With a data module that encodes text, prompts and samples are text, around a gap too."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("a tale of two cities, " * 40)
    (tmp_path / "tiny.yaml").write_text(TINY)
    data = ["--data=Text", "--data.path=text.txt", "--data.length=8", "--data.val_fraction=0.2"]
    data += ["--data.batch_size=4", *vocabulary]
    train("--config=tiny.yaml", *data, "--trainer.max_steps=2")
    checkpoint = tmp_path / "runs/lightning_logs/version_0/checkpoints/last.ckpt"
    paths = script("sample").main([str(checkpoint), "--num-steps=2", "--prompt=a tal"])
    assert paths[0].read_text().startswith("a tal")
    options = ["--num-steps=2", "--num-samples=4", "--infill", "a ta", "ies"]
    paths = script("sample").main([str(checkpoint), *options])
    loaded = load_data(checkpoint)
    encode = loaded.encode
    tokens, start, end = np.load(paths[-1])["tokens"], encode("a ta"), encode("ies")
    assert tokens.shape == (4, 8)
    assert (tokens[:, : len(start)] == start.numpy()).all()
    assert (tokens[:, -len(end) :] == end.numpy()).all()
    for text in loaded.decode(torch.from_numpy(tokens)):  # may hold ends of lines, of any kind
        assert text.startswith("a ta")
        assert text in paths[0].read_bytes().decode()
    (tmp_path / "text.txt").unlink()
    assert load_data(checkpoint).encode("a tal").tolist() == encode("a tal").tolist()


@pytest.mark.slow
def test_two_processes(trained: Path, tmp_path: Path) -> None:
    """Two processes end with the same weights and the same metrics, samples included."""
    (tmp_path / "weights.py").write_text(
        "import torch\n"
        "from lightning.pytorch import Callback\n\n\n"
        "class Weights(Callback):\n"
        "    def on_train_end(self, trainer, pl_module):\n"
        "        logged = {k: float(v) for k, v in trainer.callback_metrics.items()}\n"
        "        torch.save((pl_module.state_dict(), logged), f'rank{trainer.global_rank}.pt')\n"
    )
    command = [
        sys.executable,
        str(ROOT / "scripts" / "train.py"),
        "fit",
        f"--config={trained / 'tiny.yaml'}",
        "--trainer.strategy=ddp",
        "--trainer.devices=2",
        "--trainer.max_epochs=1",
        "--trainer.callbacks+=weights.Weights",
    ]
    environment = {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    (one, logged_one), (two, logged_two) = (
        torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)
    )
    for name, value in one.items():
        assert torch.equal(value, two[name]), name
    for name in ("val/bits_per_token", "samples/countdown_error_2"):
        assert logged_one[name] == logged_two[name]
