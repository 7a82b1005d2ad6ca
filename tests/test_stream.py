"""Streams of documents: every one is read once, by one reader, and a run goes on anywhere."""

import gzip
import json
import random
import subprocess
import sys
from functools import partial
from itertools import chain, islice
from pathlib import Path

import pytest
import torch

import ddp_stream
from ddm.datamodules import BPE, CharacterVocabulary, HuggingFace, Shards, TextStream
from ddm.datamodules.stream import Place
from ddm.datamodules.text_stream import END
from ddm.files import read_json

TEXTS = [[f"{shard}:{line} " * (4 + 3 * line) for line in range(7)] for shard in range(3)]


def write(folder: Path, texts: list[list[str]] = TEXTS) -> Path:
    """Write every list of texts as a shard of JSON lines, one of them packed."""
    folder.mkdir(exist_ok=True)
    for shard, lines in enumerate(texts):
        content = "\n".join(json.dumps({"text": text}) for text in lines).encode()
        file = folder / f"{shard}.jsonl"
        if shard == 1:
            file.with_suffix(".jsonl.gz").write_bytes(gzip.compress(content))
        else:
            file.write_bytes(content)
    return folder


@pytest.fixture
def make(tmp_path):
    """Return what makes a data module of three shards."""
    documents = partial(Shards, str(write(tmp_path / "shards")))

    def make(**changes) -> TextStream:
        settings = {"length": 8, "batch_size": 2, "num_held_out": 2, "buffer": 6, **changes}
        vocabulary = settings.pop("vocabulary", CharacterVocabulary)
        return TextStream(settings.pop("documents", documents), vocabulary, **settings)

    return make


def started(data: TextStream, reader: int, num: int, rounds: int = 1) -> list[tuple[str, Place]]:
    """Return the documents that a reader reads in its first rounds, and their places."""
    found = []
    for tokens, place in data._stream.tokens(Place(), reader, num):
        if place.round == rounds:
            return found
        found.append((data.decode(tokens[None])[0], place))
    raise AssertionError("a stream has no end")


@pytest.mark.parametrize("num", [1, 2, 3, 4, 5])
def test_every_document_is_read_once(make, num):
    """In every round readers share what is not held out, without overlap, also with few shards."""
    data = make(batch_size=1, seed=3)
    (held_out, *rest) = TEXTS[0]
    assert len(held_out) < 2 * 2 * 8 <= len(held_out) + len(rest[0])
    assert data._held_out.firsts == [2, 0, 0]
    for rounds in (1, 2):
        read = [text for r in range(num) for text, _ in started(data, r, num, rounds)]
        assert sorted(read) == sorted(rounds * [*TEXTS[0][2:], *TEXTS[1], *TEXTS[2]])
    one, two = (started(data, 0, 1, rounds) for rounds in (1, 2))
    assert two[: len(one)] == one
    assert [t for t, _ in two[len(one) :]] != [t for t, _ in one]  # in another order


def test_windows_are_the_tokens_in_a_row(make):
    """Without shuffling, windows are the documents' tokens in a row, each with its own end."""
    data = make(end=":")
    texts = [text + ":" for text, _ in started(make(), 0, 1)]
    windows = list(islice(data._stream.windows(Place(), 0, 1), 40))
    assert "".join(data.decode(torch.stack([w for w, _ in windows]))) == "".join(texts)[: 40 * 8]
    for number in (0, 7, 39):  # from its place on, the same windows follow
        again = islice(data._stream.windows(windows[number][1], 0, 1), 1)
        assert torch.equal(next(again)[0], windows[number][0])
    held_out = "".join(text + ":" for text in TEXTS[0])[: 2 * 2 * 8]
    assert "".join(data.decode(torch.cat([data.val_tokens, data.test_tokens]))) == held_out


def test_shuffling_is_bounded(make):
    """The windows of a buffer come in another order, and none is lost or comes twice."""
    data = make()
    plain = [w for w, _ in islice(data._stream.windows(Place(), 0, 1), 12)]
    shuffled = [b["tokens"] for b in islice(data.train_dataloader(), 6)]
    for part in (slice(0, 3), slice(3, 6)):
        rows = torch.cat(shuffled[part]).tolist()
        before = torch.stack(plain[2 * part.start : 2 * part.stop]).tolist()
        assert sorted(rows) == sorted(before)
        assert rows != before


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_loader_goes_on_anywhere(make, num_workers):
    """From every place of a loader another one goes on with the same batches, also of a worker."""
    data = make(num_workers=num_workers)
    loader, batches, states = data.train_dataloader(), [], []
    for batch in islice(loader, 30):
        batches.append(batch["tokens"])
        states.append(json.dumps(loader.state_dict()))
    for place in (0, 1, 2, 9, 22):
        again = data.train_dataloader()
        again.load_state_dict(json.loads(states[place]))
        for expected, batch in zip(batches[place + 1 : place + 7], again, strict=False):
            assert torch.equal(batch["tokens"], expected)


def test_other_numbers_of_readers(make):
    """A run that goes on with other numbers of readers says so, and begins a new round."""
    loader = make().train_dataloader()
    next(iter(loader))
    state = loader.state_dict()
    state["places"] *= 2  # as two processes write it
    again = make().train_dataloader()
    with pytest.warns(UserWarning, match="with 1 process.* checkpoint had 2 of 1.*no longer"):
        again.load_state_dict(state)
    assert again.state_dict()["places"] == [[[1, 0, 0, 0, 0]]]
    next(iter(again))


@pytest.mark.slow
def test_killed_runs_end_as_undisturbed_ones(tmp_path):
    """Killed at five random batches of 48, with workers, accumulation, average and schedules."""
    kills = [int(k) for k in sorted(random.Random(0).sample(range(2, 47), 5))]
    script = Path(__file__).with_name("stream_resume.py")
    command = [sys.executable, str(script), str(tmp_path), *map(str, kills)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    said = [line.split() for line in done.stdout.splitlines() if line.endswith(("al", "ent"))]
    names = ("global_step", "state_dict", "optimizer_states", "schedules", "loops")
    assert said == [[name, "equal"] for name in names]


@pytest.mark.slow
def test_processes_share_a_stream(tmp_path):
    """Two processes read other documents, and a resumed run sees the batches of one without a stop.

    With one process instead of two it goes on and says what is no longer the same. Where the stream
    is too short for one process, both are told, and none waits.
    """
    ddp_stream.write_shards(tmp_path / "shards")
    script = Path(ddp_stream.__file__)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    runs = [read_json(tmp_path / f"run{rank}.json") for rank in range(2)]
    texts = [list(chain.from_iterable(run["straight"])) for run in runs]
    assert [len(text) for text in texts] == [12, 12]
    assert len(set(texts[0] + texts[1])) == 24
    for run in runs:
        assert run["stopped"] + run["resumed"] == run["straight"]
    errors = sorted(run["error"] for run in runs)
    assert "ProcessError: process" in errors[0]
    assert "ValueError: `documents` must give each of the 2 readers" in errors[1]
    with pytest.warns(UserWarning, match=r"goes on with 1 process.*had 2 of 1.*no longer those"):
        assert len(ddp_stream.train(tmp_path / "b", 8, devices=1)) == 2


def test_hugging_face(tmp_path, make):
    """Streamed from files or in a folder of the library, documents are those that were written."""
    import datasets

    files = [str(tmp_path / "shards" / name) for name in ("0.jsonl", "2.jsonl")]
    rows = [{"text": text} for shard in (0, 2) for text in TEXTS[shard]]
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "disk"))
    streamed = partial(HuggingFace, "json", data_files=files)
    for documents, num in ((streamed, 2), (partial(HuggingFace, str(tmp_path / "disk")), 14)):
        made = documents()
        assert made.num_shards == num
        whole = [list(made.read(shard)) for shard in range(num)]
        assert list(chain.from_iterable(whole)) == TEXTS[0] + TEXTS[2]
        assert list(made.read(0, 1)) == whole[0][1:]
        batches = [
            batch["tokens"] for batch in islice(make(documents=documents).train_dataloader(), 9)
        ]
        assert len(batches) == 9
    with pytest.raises(ValueError, match="`path` must name a dataset of Hugging Face"):
        HuggingFace(str(tmp_path / "shards"))


def test_hugging_face_is_not_needed(monkeypatch):
    """Without the library there is the command that installs it."""
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"pip install 'discrete-diffusion\[stream\]'"):
        HuggingFace("anything")


def test_end_of_text(make):
    """The token that GPT-2 has for it follows every document of a vocabulary that has it."""
    vocabulary = BPE("a b c " * 100, 258)
    tokenizer = json.loads(vocabulary.identity)
    tokenizer["model"]["vocab"][END] = 258
    known = BPE.from_identity(json.dumps(tokenizer))
    assert make(vocabulary=lambda corpus: known).end.tolist() == [258]
    assert make(vocabulary=lambda corpus: vocabulary).end.tolist() == []


def test_damaged_shards(make, tmp_path):
    """A shard that is cut off or gone is left out from there on, with a warning."""
    packed, plain = tmp_path / "shards" / "1.jsonl.gz", tmp_path / "shards" / "2.jsonl"
    data = make(batch_size=1)
    packed.write_bytes(packed.read_bytes()[:-9])
    lines = plain.read_text().split("\n")
    plain.write_text("\n".join(lines[:3])[:-5])
    with pytest.warns(UserWarning, match=r"shard . has .*left out from there on") as told:
        read = [text for text, _ in started(data, 0, 1)]
    assert len(told) == 2
    assert sorted(read) == sorted([*TEXTS[0][2:], *TEXTS[2][:2]])
    plain.unlink()
    with pytest.warns(UserWarning, match=r"No such file|damaged gzip data"):
        assert sorted(text for text, _ in started(data, 0, 1)) == sorted(TEXTS[0][2:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"length": 0}, "`length` must be at least 1, got 0"),
        ({"end": "<end>"}, "`end` must be a token of the vocabulary, got '<end>'"),
        ({"num_held_out": 1000}, "`documents` must hold more than the 2 x 1000 windows of 8"),
        ({"documents": partial(Shards, "nowhere")}, "`path` must name a folder with"),
        ({"documents": partial(Shards, "nowhere", column="x")}, "check the folder"),
    ],
)
def test_bad_arguments(make, changes, message):
    """Bad arguments are refused at construction."""
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        make(**changes)


def test_too_short_a_stream(make):
    """A stream with less than a batch for a reader is refused when its first round has ended."""
    loader = make(batch_size=200).train_dataloader()
    with pytest.raises(ValueError, match="each of the 1 readers at least a batch of 200 windows"):
        next(iter(loader))


def test_a_run_needs_an_end(make):
    """The trainer has to say how many steps it makes; then the loader has a length."""

    class Steps:
        world_size, global_rank, accumulate_grad_batches = 1, 0, 3

        def __init__(self, max_steps):
            self.max_steps = max_steps

    data = make()
    data.trainer = Steps(-1)
    with pytest.raises(ValueError, match=r"`max_steps` of the trainer must be given.*got -1"):
        data.train_dataloader()
    data.trainer = Steps(10)
    assert len(data.train_dataloader()) == 30
    with pytest.raises(TypeError, match="no end"):
        len(make().train_dataloader())
