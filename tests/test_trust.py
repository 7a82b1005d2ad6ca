"""A checkpoint is data: nothing that it names is imported or run unless somebody trusts it."""

import copy
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from ddm.checkpoint import check_checkpoint, check_data, load_data, load_model
from ddm.commands import train
from ddm.datamodules import BPE, Text
from ddm.trust import TORCH, UntrustedError, class_paths, make, resolve

ROOT = Path(__file__).resolve().parents[1]
GOOD = ROOT / "checkpoints" / "countdown.ckpt"
SENTINEL = """
from pathlib import Path
import torch
from ddm import Absorbing
from ddm.datamodules import CountDown

def run(*args, **kwargs):
    Path(__file__).with_name("was_run").touch()

run()

class Thing(torch.nn.Module):
    def __init__(self, *args, **kwargs):
        super().__init__()
        run()

class Kernel(Absorbing):
    pass

class Data(CountDown):
    pass
"""
THING = {"class_path": "sentinel.Thing"}
SHELL = {
    "class_path": "subprocess.Popen",
    "init_args": {"args": "touch was_run", "shell": True},
}


@pytest.fixture
def sentinel(tmp_path, monkeypatch):
    """Put a module on the path that leaves a file where it was imported; return that file."""
    (tmp_path / "sentinel.py").write_text(SENTINEL)
    (tmp_path / "sentinel.yaml").write_text("class_path: sentinel.Thing\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "was_run"
    sys.modules.pop("sentinel", None)


@pytest.fixture
def content():
    """Return the content of a checkpoint, to be changed."""
    return torch.load(GOOD, weights_only=True)


def put(content, place, value):
    """Put a value into nested settings: `a.b.c` by dots, a list by `[]` at the end."""
    *parents, last = place.split("/")
    for name in parents:
        content = content.setdefault(name, {})
    content[last] = value


LAMBDA = {"class_path": "torch.optim.lr_scheduler.LambdaLR"}
MODEL, DATA = "hyper_parameters", "datamodule_hyper_parameters"
CRAFTED = {
    "kernel": ("kernel", THING),
    "kernel by name": ("kernel", "sentinel.Thing"),
    "kernel in YAML": ("kernel", "{class_path: sentinel.Thing}"),
    "kernel in another file": ("kernel", "sentinel.yaml"),
    "kernel by a key with a dot": ("kernel.class_path", "sentinel.Thing"),
    "sampler": ("sampler", THING),
    "maker": ("denoiser", THING),
    "maker by name": ("denoiser", "sentinel.run"),
    "maker by the name of ours": ("denoiser", "ddm.trust.importlib.import_module"),
    "optimizer by name": ("optimizer", "os.system"),
    "schedule": ("lr_scheduler", THING),
    "schedule by name": ("lr_scheduler", "sentinel.run"),
    "argument": ("backbone/init_args/dim", THING),
    "argument of torch": ("optimizer/init_args/lr", SHELL),
    "argument of a schedule": ("lr_scheduler/init_args/eta_min", SHELL),
    "list": ("backbone/init_args/dim", [[1, {"a": THING}]]),
    "further arguments": ("backbone/dict_kwargs", {"head": THING}),
    "deep inside": ("kernel/init_args/width", {"class_path": "ddm.Uniform", "init_args": THING}),
    "inner arguments that are none": ("kernel/init_args", THING),
    "callbacks": ("callbacks", [THING]),
    "class of the model": ("_class_path", "sentinel.Thing"),
    "instantiator": ("_instantiator", "sentinel.run"),
    "what ours import": ("sampler/class_path", "ddm.datamodules.midi.ProcessPoolExecutor"),
    "modules that ours import": ("sampler/class_path", "ddm.files.shutil.rmtree"),
    "functions of ours": ("sampler", {"class_path": "ddm.files.write_json"}),
    "a class of ours that does not fit": ("kernel/class_path", "ddm.callbacks.SampleLogger"),
    "lookalike": ("kernel/class_path", "ddm_sentinel.Thing"),
    "function of torch": (
        "lr_scheduler",
        {
            "class_path": "torch.optim.lr_scheduler.LambdaLR",
            "init_args": {"lr_lambda": "os.system"},
        },
    ),
    "object of torch": (
        "lr_scheduler",
        {"class_path": "torch.optim.lr_scheduler.LambdaLR", "init_args": {"lr_lambda": SHELL}},
    ),
    "rates": ("kernel", {"class_path": "ddm.DenseKernel", "init_args": {"rate": SHELL}}),
    "relative": ("kernel/class_path", "ddm...sentinel.Thing"),
    "not torch.optim": ("optimizer/class_path", "torch.optim.swa_utils.AveragedModel"),
    "a number": ("kernel/class_path", 3),
    "nothing": ("kernel/class_path", None),
}
CRAFTED_DATA = {
    "class": ("_class_path", "sentinel.Data"),
    "a class of another kind": ("_class_path", "ddm.samplers.Euler"),
    "argument": ("vocab_size", THING),
    "list": ("num_val", [THING]),
    "shell": ("seed", SHELL),
    "instantiator": ("_instantiator", "sentinel.run"),
}


def refused(load, path, sentinel):
    """Load a file that may fail in the one way that is allowed, and see that nothing ran."""
    try:
        load(path)
    except ValueError as error:
        assert "`checkpoint`" in str(error)  # noqa: PT017
    assert not sentinel.exists()
    assert "sentinel" not in sys.modules


@pytest.mark.filterwarnings("ignore:No data module")
@pytest.mark.parametrize(("place", "value"), CRAFTED.values(), ids=CRAFTED)
def test_crafted_models_run_nothing(place, value, content, sentinel):
    """No class, function, string, list or file that settings name is imported or called."""
    put(content[MODEL], place, copy.deepcopy(value))
    torch.save(content, "crafted.ckpt")
    refused(load_model, "crafted.ckpt", sentinel)
    for path in class_paths(content):
        if path in ("sentinel.Thing", "sentinel.run", "subprocess.Popen"):
            with pytest.raises(UntrustedError, match=f"got '{path}'; nothing was run.*--trust"):
                load_model("crafted.ckpt")
            with pytest.raises(UntrustedError, match=f"got '{path}'"):
                check_checkpoint("crafted.ckpt")


@pytest.mark.filterwarnings("ignore:No data module")
@pytest.mark.parametrize(("place", "value"), CRAFTED_DATA.values(), ids=CRAFTED_DATA)
def test_crafted_data_run_nothing(place, value, content, sentinel):
    """Nor what the settings of a data module name."""
    put(content[DATA], place, copy.deepcopy(value))
    torch.save(content, "crafted.ckpt")
    refused(load_data, "crafted.ckpt", sentinel)


@pytest.mark.parametrize("vocabulary", [THING, "sentinel.Thing", "sentinel.run", SHELL])
@pytest.mark.filterwarnings("ignore:No data module")
def test_crafted_vocabularies_run_nothing(vocabulary, content, sentinel):
    """Nor what stands where a data module takes something that makes its vocabulary."""
    content[DATA] = {"_class_path": "ddm.datamodules.Text", "vocabulary": vocabulary}
    torch.save(content, "crafted.ckpt")
    with pytest.raises(UntrustedError, match="nothing was run"):
        load_data("crafted.ckpt")
    assert not sentinel.exists()


class Payload:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch was_run",)


def test_pickled_objects_are_not_made(content, sentinel):
    """Objects inside of the file are refused, whatever they are."""
    for place in (MODEL, "state_dict", "callbacks"):
        torch.save({**content, place: Payload()}, "crafted.ckpt")
        refused(load_model, "crafted.ckpt", sentinel)


def test_resuming_runs_nothing(content, sentinel, monkeypatch, capsys):
    """`--ckpt_path` refuses them, before Lightning imports or unpickles what they name."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    from train import main

    put(content[MODEL], "kernel", THING)
    content |= {"optimizer_states": [], "lr_schedulers": [], "loops": {}}
    torch.save(content, "crafted.ckpt")
    arguments = ["fit", f"--config={ROOT / 'configs' / 'countdown.yaml'}"]
    with pytest.raises(SystemExit):
        main([*arguments, "--ckpt_path=crafted.ckpt"])
    assert "got 'sentinel.Thing'" in capsys.readouterr().err
    torch.save({**content, "loops": Payload()}, "crafted.ckpt")
    with pytest.raises(SystemExit):
        main([*arguments, "--ckpt_path=crafted.ckpt"])
    assert "is damaged or something else" in capsys.readouterr().err
    assert not sentinel.exists()


NAMED = ("sentinel.Thing", "{class_path: sentinel.Thing}", "sentinel.yaml", "sentinel.run")


@pytest.mark.parametrize("command", ["fit", "test"])
@pytest.mark.parametrize("name", NAMED)
def test_resuming_imports_no_name(command, name, content, sentinel, monkeypatch):
    """A string in a checkpoint stays one, though the same one on the command line is a class."""
    monkeypatch.setattr(train.CommandLine, "_run_subcommand", lambda *args: None)
    content |= {"optimizer_states": [], "lr_schedulers": [], "loops": {}}
    inside = {"class_path": "ddm.samplers.Reveal", "init_args": {"order": name}}
    settings = content[MODEL]
    for place in ("kernel", "noise", "denoiser", "backbone", "optimizer", "lr_scheduler"):
        settings[place] = name
    torch.save(content, "crafted.ckpt")
    arguments = [command, "--config=countdown", "--ckpt_path=crafted.ckpt"]
    train.main(arguments)
    settings |= {"kernel": {}, "sampler": inside}
    torch.save(content, "crafted.ckpt")
    train.main(arguments)
    assert not sentinel.exists()
    assert "sentinel" not in sys.modules


def test_weights_alone_are_not_resumed(capsys):
    """A training needs the state of its optimizer; what `ddm export` leaves is refused by name."""
    with pytest.raises(SystemExit):
        train.main(["fit", "--config=countdown", f"--ckpt_path={GOOD}"])
    assert "`ckpt_path` must hold the state of a training" in capsys.readouterr().err


def test_trusted_packages(content, sentinel):
    """What the user trusts, a package or one class, is made; and nothing beside it."""
    content[MODEL]["kernel"]["class_path"] = "sentinel.Kernel"
    content[DATA]["_class_path"] = "sentinel.Data"
    del content["forward_process"]  # that of another class
    torch.save(content, "own.ckpt")
    with pytest.raises(UntrustedError):
        load_model("own.ckpt", trust=["sentinel.Data", "sentine", "senti"])
    assert not sentinel.exists()
    model = load_model("own.ckpt", trust=["sentinel"])
    assert type(model.process.kernel).__name__ == "Kernel"
    assert type(load_data("own.ckpt", trust=["sentinel.Data"])).__name__ == "Data"
    check_checkpoint("own.ckpt", trust=("sentinel.Kernel", "sentinel.Data"))
    for trust in ("sentinel", ["not a name"]):
        with pytest.raises(ValueError, match="`trust` must hold names of packages"):
            load_model("own.ckpt", trust=trust)


def test_torch_classes_that_are_trusted():
    """They are optimizers and schedules of the learning rate, under their two names."""
    assert {"torch.optim.AdamW", "torch.optim.adamw.AdamW"} <= TORCH
    assert "torch.optim.lr_scheduler.CosineAnnealingLR" in TORCH
    assert all(path.startswith("torch.optim.") for path in TORCH)
    kinds = torch.optim.Optimizer | torch.optim.lr_scheduler.LRScheduler
    for path in TORCH:
        assert issubclass(resolve(path), kinds)


def test_settings_become_what_annotations_say():
    """An object, something that makes one, a tuple of objects; a string only where both agree."""
    kernel = {"class_path": "ddm.Uniform", "init_args": {"vocab_size": 3}}

    class Holder:
        def __init__(
            self,
            one: object = None,
            *,
            many: tuple[object, ...] = (),
            pair: tuple[int, float] | None = None,
            text: "str | None" = None,
            named: dict[str, list[int]] | None = None,
        ) -> None:
            self.all = one, many, pair, text, named

    settings = {"many": [kernel, kernel], "pair": [1, 0.5], "text": "ddm.Uniform"}
    held = make(Holder, {"one": kernel, **settings, "named": {"a": [1]}})
    one, many, pair, text, named = held.all
    assert [type(value).__name__ for value in (one, *many)] == 3 * ["Uniform"]
    assert (pair, text, named) == ((1, 0.5), "ddm.Uniform", {"a": [1]})


def test_model_is_what_was_saved(tmp_path):
    """A model that was loaded can be saved and loaded once more."""
    model = load_model(GOOD)
    content = torch.load(GOOD, weights_only=True)
    content[MODEL], content["state_dict"] = dict(model.hparams), model.state_dict()
    torch.save(content, tmp_path / "again.ckpt")
    again = load_model(tmp_path / "again.ckpt").state_dict()
    assert all(torch.equal(again[name], value) for name, value in model.state_dict().items())
    assert not model.training


DAMAGE = {
    "no settings": lambda c: c.pop(MODEL),
    "settings that are none": lambda c: c.update({MODEL: [1]}),
    "no kernel": lambda c: c[MODEL].pop("kernel"),
    "no backbone": lambda c: c[MODEL].pop("backbone"),
    "kernel that is text": lambda c: c[MODEL].update(kernel="absorbing"),
    "length that is text": lambda c: c[MODEL].update(length="64"),
    "length of another type": lambda c: c[MODEL].update(length=[64]),
    "unknown argument": lambda c: c[MODEL].update(color=3),
    "class that is gone": lambda c: c[MODEL]["kernel"].update(class_path="ddm.Gone"),
    "module that is gone": lambda c: c[MODEL]["kernel"].update(class_path="ddm.gone.Gone"),
    "argument that is gone": lambda c: c[MODEL]["kernel"]["init_args"].update(gone=1),
    "vocabulary of another type": lambda c: c[MODEL]["kernel"]["init_args"].update(vocab_size="x"),
    "vocabulary of another size": lambda c: c[MODEL]["kernel"]["init_args"].update(vocab_size=31),
    "no weights": lambda c: c.pop("state_dict"),
    "weights that are none": lambda c: c.update(state_dict=3),
    "empty weights": lambda c: c.update(state_dict={}),
    "number as a weight": lambda c: c["state_dict"].update(dict.fromkeys(c["state_dict"], 1.0)),
    "weight of another shape": lambda c: c["state_dict"].update(
        {name: value[:1] for name, value in c["state_dict"].items()}
    ),
    "weight of another type": lambda c: c["state_dict"].update(
        {name: value.long() for name, value in c["state_dict"].items()}
    ),
    "NaN": lambda c: next(iter(c["state_dict"].values())).fill_(torch.nan),
    "infinity": lambda c: next(iter(c["state_dict"].values())).fill_(torch.inf),
    "unknown weight": lambda c: c["state_dict"].update(further=torch.zeros(1)),
    "another process": lambda c: c["forward_process"].update(kernel="Uniform(vocab_size=32)"),
    "process that is none": lambda c: c.update(forward_process=3),
}


@pytest.mark.parametrize("harm", DAMAGE.values(), ids=DAMAGE)
def test_damaged_content(harm, content, tmp_path):
    """Whatever is missing or of another kind, there is one error, and it names `checkpoint`."""
    harm(content)
    torch.save(content, tmp_path / "damaged.ckpt")
    with pytest.raises(ValueError, match=r"^`checkpoint` must"):
        load_model(tmp_path / "damaged.ckpt")


def test_flipped_bits_are_noticed(tmp_path):
    """Any changed bit of the file is an error, or changes nothing of the model."""
    whole, path = GOOD.read_bytes(), tmp_path / "flipped.ckpt"
    expected = load_model(GOOD).state_dict()
    generator = np.random.default_rng(0)
    with zipfile.ZipFile(GOOD) as archive:
        heads = [info.header_offset + 30 + len(info.filename) for info in archive.infolist()]
    # Some anywhere, which is mostly in weights; some beside the names; some in the directory.
    places = [*generator.integers(len(whole), size=40), *heads[:8], *range(-400, 0, 16)]
    noticed = 0
    for place in (int(place) % len(whole) for place in places):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(flipped)
        try:
            found = load_model(path).state_dict()
        except ValueError as error:
            assert str(error).startswith("`checkpoint` must")  # noqa: PT017
            noticed += 1
        else:
            assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert noticed >= 40


@pytest.mark.parametrize("length", [0, 1, 1000, -1])
def test_files_that_are_cut_off(tmp_path, length):
    """Whatever is left of a file, it is called damaged."""
    path = tmp_path / "cut.ckpt"
    path.write_bytes(GOOD.read_bytes()[:length])
    for load in (load_model, load_data, check_checkpoint):
        with pytest.raises(ValueError, match="is damaged or something else"):
            load(path)


def test_pipes_and_devices_are_no_checkpoints(tmp_path):
    """They are refused, not waited for."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero", tmp_path):
        with pytest.raises(ValueError, match="`checkpoint` must be a file"):
            load_model(path)


@pytest.mark.parametrize(("name", "value"), [("vocab_size", 8), ("length", 16)])
def test_data_that_do_not_fit(name, value, content, tmp_path):
    """Data of another vocabulary or length are refused by name; those of the model are not."""
    data = load_data(GOOD)
    check_data(data, vocab_size=32, length=64)
    check_data(data, vocab_size=None, length=64)
    check_data(None, vocab_size=32, length=64)
    with pytest.raises(ValueError, match=f"the data have `{name}` .*, and the model {value};"):
        check_data(data, **{"vocab_size": 32, "length": 64, name: value})
    content[DATA][name] = value
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=f"the data have `{name}` {value}, and the model"):
        load_data(tmp_path / "other.ckpt")


@pytest.mark.filterwarnings("ignore:No data module")
@pytest.mark.parametrize("settings", [3, {"vocab_size": 4}, {"_class_path": "ddm.Gone"}])
def test_damaged_data(settings, content, tmp_path):
    """Settings of data that are none are an error, or tokens are shown as numbers."""
    content[DATA] = settings
    torch.save(content, tmp_path / "damaged.ckpt")
    if settings == 3:
        with pytest.raises(ValueError, match="settings of its data are none"):
            load_data(tmp_path / "damaged.ckpt")
    elif "_class_path" not in settings:
        with pytest.warns(UserWarning, match="names no data module"):
            assert load_data(tmp_path / "damaged.ckpt") is None
    else:
        assert load_data(tmp_path / "damaged.ckpt") is None


def fit(content, data):
    """Let the settings of the model be those of one of these data."""
    content[MODEL]["length"] = data.length
    content[MODEL]["kernel"]["init_args"]["vocab_size"] = data.vocab_size


@pytest.mark.parametrize("kind", ["CharacterVocabulary", "Text8Vocabulary", "BPE"])
def test_text_without_its_file(kind, content, tmp_path):
    """Its vocabulary lies in the checkpoint: samples and prompts are text, data are asked for."""
    path = tmp_path / "my.txt"
    path.write_text("the quick brown fox jumps over the lazy dog\n" * 40, encoding="utf-8")
    vocabulary = {"class_path": f"ddm.datamodules.{kind}"}
    if kind == "BPE":
        vocabulary["init_args"] = {"vocab_size": 280}
    settings = {"path": str(path), "length": 8, "batch_size": 2}
    data = make(Text, {**settings, "vocabulary": vocabulary})
    content[DATA] = {
        "_class_path": "ddm.datamodules.Text",
        "_instantiator": "lightning.pytorch.cli.instantiate_module",
        **settings,
        "vocabulary": vocabulary,
    }
    content["Text"] = data.state_dict()
    fit(content, data)
    torch.save(content, tmp_path / "text.ckpt")
    with_text = load_data(tmp_path / "text.ckpt")
    assert torch.equal(with_text.val_tokens, data.val_tokens)
    path.unlink()
    alone = load_data(tmp_path / "text.ckpt")
    assert (alone.vocab_size, alone.length) == (data.vocab_size, 8)
    tokens = data.encode("the lazy fox")
    assert torch.equal(alone.encode("the lazy fox"), tokens)
    assert alone.decode(tokens[None]) == ["the lazy fox"]
    assert type(alone.vocabulary) is type(data.vocabulary)
    with pytest.raises(ValueError, match="`path` must name an existing file or folder"):
        alone.prepare_data()


def test_checkpoints_of_text_without_merges(content, tmp_path):
    """Earlier checkpoints hold characters, which suffice, or parts of words, which do not."""
    data = Text(length=8, batch_size=2)
    content[DATA] = {"_class_path": "ddm.datamodules.Text", "path": "gone.txt", "length": 8}
    content["Text"] = {"vocabulary": data.vocabulary.tokens}
    fit(content, data)
    torch.save(content, tmp_path / "text.ckpt")
    assert load_data(tmp_path / "text.ckpt").vocabulary.tokens == data.vocabulary.tokens
    content[DATA]["vocabulary"] = {"class_path": f"{BPE.__module__}.BPE"}
    torch.save(content, tmp_path / "text.ckpt")
    with pytest.warns(UserWarning, match="No data module, tokens are shown as numbers"):
        assert load_data(tmp_path / "text.ckpt") is None
