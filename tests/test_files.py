"""Files that are whole or absent, whatever stops the run that writes them."""

import errno
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from ddm import files
from ddm.datamodules import CountDown, Images, Midi, Text
from ddm.files import read_json, replacing, write_json

CONTENT = {"times": [1.0, 1 / 3, 1e-300, 0.0], "info": {"3": None, "name": "é"}}


@pytest.fixture
def small_disk():
    """Let no file grow beyond 4 kB, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, before)


def test_names_of_unfinished_files_are_new(tmp_path):
    """Two writers of one file, of whatever process numbers, share no unfinished file."""
    path = tmp_path / "a.png"
    with replacing(path) as first, replacing(path) as second:
        assert first != second
        assert {first.suffix, second.suffix} == {".png"}  # from which writers infer the format
        first.write_bytes(b"first")
        second.write_bytes(b"second")
    assert path.read_bytes() == b"first"  # the last to end
    assert os.listdir(tmp_path) == ["a.png"]


def test_planted_links_are_not_followed(tmp_path, monkeypatch):
    """A link under the unfinished name is an error; one under the final name is replaced."""
    victim, path = tmp_path / "victim", tmp_path / "a.json"
    victim.write_text("mine")
    path.symlink_to(victim)
    write_json(path, CONTENT)
    assert not path.is_symlink()
    monkeypatch.setattr(files.secrets, "token_hex", lambda size: "0" * 2 * size)
    (tmp_path / f".{'0' * 16}.tmp.a.json").symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_json(path, {})
    assert victim.read_text() == "mine"
    assert read_json(path) == CONTENT


def test_permissions_are_those_of_any_new_file(tmp_path):
    """Others may read what the umask lets them read."""
    write_json(tmp_path / "a.json", {})
    (tmp_path / "b").touch()
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_leftovers_of_killed_runs_are_deleted(tmp_path):
    """Those a day old are; what a run may still write, and what others call alike, stays."""
    kept = [f".{'1' * 16}.tmp.new", "a.tmp.b", ".environment_local.tmp.c"]
    old = [f".{'0' * 16}.tmp.old", *kept[1:]]
    for name in {*kept, *old}:
        (tmp_path / name).touch()
    for name in old:
        os.utime(tmp_path / name, (0, time.time() - 2 * 24 * 3600))
    write_json(tmp_path / "a.json", {})
    assert set(os.listdir(tmp_path)) == {*kept, "a.json"}


def test_killed_at_any_moment(tmp_path):
    """A process that is killed while it writes leaves the old file or a new one, whole."""
    path = tmp_path / "a.json"
    write_json(path, {"n": list(range(50_000)), "k": -1})
    code = (
        "import sys; from ddm.files import write_json\n"
        "for k in range(10**9):\n"
        "    write_json(sys.argv[1], {'n': list(range(50_000)), 'k': k})\n"
        "    print(k, flush=True)"
    )
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
    content = read_json(path)
    assert content["k"] >= 0
    assert content["n"] == list(range(50_000))


def save_tensor(path):
    """Write a tensor with torch."""
    with replacing(path) as unfinished:
        torch.save(torch.zeros(10_000), unfinished)


WRITERS = {
    "json": lambda path: write_json(path, {"n": list(range(10_000))}),
    "torch": save_tensor,
}


@pytest.mark.usefixtures("small_disk")
@pytest.mark.parametrize("write", WRITERS)
def test_full_disk(tmp_path, monkeypatch, write):
    """The error names disk and file, the old file stays, and no half of a new one is left."""
    path = tmp_path / "a.json"
    write_json(path, CONTENT)
    # The limit is on the size of a file: torch does not say why it could not write.
    usage = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(OSError, match=rf"disk of '{tmp_path}' has no room for 'a\.json' .*free"):
        WRITERS[write](path)
    assert read_json(path) == CONTENT
    assert os.listdir(tmp_path) == ["a.json"]


def test_other_errors_stay_what_they_are(tmp_path):
    """Where there is room, the error is that of the writer."""
    for error in (OSError(errno.EIO, "broken"), RuntimeError("broken"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, replacing(tmp_path / "a"):
            raise error
        assert caught.value is error
    assert os.listdir(tmp_path) == []


def test_json_comes_back(tmp_path):
    """What is read is what was written; format and checksum are not part of it."""
    path = tmp_path / "a.json"
    write_json(path, CONTENT)
    assert read_json(path) == CONTENT
    assert json.loads(path.read_text())["format"] == 1
    path.write_text(json.dumps(CONTENT))  # as earlier versions wrote it, or a person
    assert read_json(path) == CONTENT


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_json_is_strict(tmp_path, number):
    """NaN and infinity are neither written nor read, under whatever name."""
    path = tmp_path / "a.json"
    write_json(path, CONTENT)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": [number]})
    assert read_json(path) == CONTENT
    path.write_text(json.dumps({"a": number}))
    with pytest.raises(ValueError, match=r"damaged or cut off .* is no number"):
        read_json(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1e999}', "damaged or cut off .*1e999 is no finite number"),
        ('{"a": "\udcff"}', "damaged or cut off"),
        ("[" * 100_000, "damaged or cut off"),
        ("3", "must hold a JSON object, got int"),
        (
            '{"format": 2, "checksum": ""}',
            "must have the format 1, got 2; read it with the",
        ),
        ('{"format": 1, "checksum": ""}', "must hold what its checksum says, .*delete its"),
        ('{"format": 1, "a": 2}', "must hold what its checksum says"),
        ('{"checksum": "", "a": 2}', "must have the format 1, got None"),
    ],
)
def test_errors_of_json(tmp_path, text, message):
    """The file, what is wrong with it, and the remedy are named."""
    path = tmp_path / "a.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=rf"`{path}` {message}|`{path}` .*{message}"):
        read_json(path)


def test_every_changed_byte_is_noticed(tmp_path):
    """A changed digit, sign or letter is an error, or changes nothing that is read."""
    path = tmp_path / "a.json"
    write_json(path, CONTENT)
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        try:
            content = read_json(path)
        except ValueError:
            continue
        assert content == CONTENT


def test_only_files_are_read(tmp_path):
    """A pipe would never end, and a folder has no content."""
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", ".", "absent", "/dev/zero"):
        with pytest.raises(ValueError, match="must be an existing JSON file"):
            read_json(tmp_path / name)


SAMPLES = {
    "text": lambda: (CountDown(32, 256), torch.arange(32).repeat(64, 8)),
    "image": lambda: (Images(), torch.randint(17, (64, 64))),
    "music": lambda: (Midi(length=256), torch.arange(128).repeat(4, 2)),
}


@pytest.mark.usefixtures("small_disk")
@pytest.mark.parametrize("kind", SAMPLES)
def test_samples_on_a_full_disk(kind, tmp_path):
    """No sample is half written: what is left of the folder are whole files."""
    data, tokens = SAMPLES[kind]()
    with pytest.raises(OSError, match=rf"disk of '{tmp_path}.*' has no room for 'sample"):
        data.save_samples(tokens, tmp_path)
    left = {file.name: file.read_text().split("\n") for file in tmp_path.iterdir()}
    assert left == ({"samples.txt": [*data.decode(tokens), ""]} if kind == "music" else {})


@pytest.mark.usefixtures("small_disk")
def test_caches_on_a_full_disk(tmp_path):
    """The error names `cache` and the disk; nothing is left that could be taken for tokens."""
    text = tmp_path / "text.txt"
    text.write_text("some words " * 300)  # two bytes per token: the cache is twice as large
    with pytest.raises(ValueError, match=r"`cache` must be a folder .* has no room for 'tokens-"):
        Text(str(text), cache=str(tmp_path / "cache"), length=8)
    assert {file.suffix for file in (tmp_path / "cache").rglob("*") if file.is_file()} == {".json"}


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [1, 3])
def test_killed_while_caches_are_written(tmp_path, rounds):
    """Whatever a process leaves that is killed, the next one has the right tokens."""
    path, cache = tmp_path / "text.txt", tmp_path / "cache"
    path.write_text("".join(f"line {i} of a text\n" for i in range(20_000)), encoding="utf-8")
    code = (
        "import shutil, sys; from ddm.datamodules import Text\n"
        "while True:\n"
        "    print(flush=True)\n"
        "    Text(sys.argv[1], cache=sys.argv[2])\n"
        "    shutil.rmtree(sys.argv[2])"
    )
    command = [sys.executable, "-c", code, str(path), str(cache)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        for _ in range(rounds):
            process.stdout.readline()
        process.kill()
    whole = Text(str(path), cache=str(tmp_path / "other"))
    assert torch.equal(Text(str(path), cache=str(cache)).train_stream, whole.train_stream)
