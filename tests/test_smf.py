"""MIDI files: the notes of pretty_midi, and those of files that it refuses."""

import os
import warnings

import mido
import numpy as np
import pretty_midi
import pytest

from ddm.datamodules import Midi, melody
from ddm.datamodules.midi import _read
from ddm.datamodules.music import REST
from ddm.datamodules.smf import Note, read_music


def random_event(rng, first_track):
    """Return an event of any kind that files hold."""
    time = int(rng.choice([0, 0, 1, 7, 24, 130]))
    channel, note = int(rng.choice([0, 0, 1, 9])), int(rng.integers(60, 64))
    kind = rng.choice(["on", "on", "on", "off", "off", "program", "bend", "text", "system", "meta"])
    if kind == "on":
        velocity = int(rng.choice([0, 90]))
        return mido.Message("note_on", channel=channel, note=note, velocity=velocity, time=time)
    if kind == "off":
        return mido.Message("note_off", channel=channel, note=note, time=time)
    if kind == "program":
        return mido.Message("program_change", channel=channel, program=note % 3, time=time)
    if kind == "bend":
        return mido.Message("pitchwheel", channel=channel, pitch=100, time=time)
    if kind == "system":
        return mido.Message("sysex", data=[1, 2, 3], time=time)
    if kind == "meta" and first_track:
        return mido.MetaMessage("set_tempo", tempo=int(rng.integers(300_000, 900_000)), time=time)
    return mido.MetaMessage("lyrics", text="la", time=time)


def random_file(path, seed):
    """Write a file of one to three tracks of random events."""
    rng = np.random.default_rng(seed)
    file = mido.MidiFile(type=1, ticks_per_beat=int(rng.choice([1, 24, 96, 480])))
    for track in range(rng.integers(1, 4)):
        events = [random_event(rng, track == 0) for _ in range(rng.integers(1, 150))]
        file.tracks.append(mido.MidiTrack(events))
    file.save(path)


@pytest.mark.parametrize("seed", range(40))
def test_notes_are_those_of_pretty_midi(tmp_path, seed):
    """On whole files both agree, in the order of the instruments, too."""
    path = tmp_path / "a.mid"
    random_file(path, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on events in unusual tracks
        theirs = pretty_midi.PrettyMIDI(str(path))
    for voices, track in ((1, None), (3, None), (1, 0), (2, 1)):
        tokens, fault = _read(str(path), voices, track)
        assert fault == ""
        assert np.array_equal(tokens, melody(theirs, track, voices=voices))


def write(path, *events, resolution=480):
    """Write a file with one track."""
    file = mido.MidiFile(type=0, ticks_per_beat=resolution)
    file.tracks.append(mido.MidiTrack(events))
    file.save(path)


def notes(pitches, length):
    """Return events of notes of some ticks, one after the other."""
    for pitch in pitches:
        yield mido.Message("note_on", note=pitch, velocity=90, time=0)
        yield mido.Message("note_off", note=pitch, velocity=0, time=length)


def patch(path, marker, values):
    """Replace the bytes that stand behind a marker."""
    content = path.read_bytes()
    at = content.index(marker) + len(marker)
    path.write_bytes(content[:at] + bytes(values) + content[at + len(values) :])


@pytest.mark.parametrize(
    ("event", "marker", "values"),
    [
        (mido.MetaMessage("key_signature", key="C"), b"\xff\x59\x02", [0, 2]),  # of mode 2
        (mido.MetaMessage("key_signature", key="C"), b"\xff\x59\x02", [9, 0]),  # of 9 sharps
        (mido.MetaMessage("time_signature"), b"\xff\x58\x04", [0]),  # no beats in a bar
        (mido.MetaMessage("time_signature"), b"\xff\x58\x04", [4, 255]),
        (mido.MetaMessage("set_tempo", tempo=1), b"\xff\x51\x03", [0, 0, 0]),
        (mido.MetaMessage("text", text="la"), b"\xff\x01\x02", [0xFF, 0xFE]),
        (mido.MetaMessage("text", text="la"), b"\xff", [0x7A]),  # of no known kind
        (mido.MetaMessage("channel_prefix", channel=1), b"\xff\x20\x01", [99]),
    ],
)
def test_what_a_melody_does_not_need(tmp_path, event, marker, values):
    """Signatures, tempi and texts that nobody can decode do not cost the notes."""
    path = tmp_path / "a.mid"
    write(path, event, *notes([60, 62], 480))
    patch(path, marker, values)
    tokens, fault = _read(str(path), 1, None)
    assert tokens.tolist() == [60] * 4 + [62] * 4
    assert fault == ""


def test_fine_resolutions(tmp_path):
    """Ten minutes of 19,200 ticks per quarter are ten minutes."""
    path = tmp_path / "a.mid"
    write(path, *notes([60 + i % 12 for i in range(1200)], 19_200), resolution=19_200)
    tokens, fault = _read(str(path), 1, None)
    assert len(tokens) == 4 * 1200
    assert tokens[:9].tolist() == [60] * 4 + [61] * 4 + [62]
    assert fault == ""


def test_running_status_and_unknown_chunks():
    """Events without a status have the last one's, across meta events; other chunks are skipped."""
    events = b"\x00\x90\x3c\x40\x0c\x3c\x00\x00\xff\x01\x00\x00\x3e\x40\x0c\x3e\x00"
    track = events + b"\x00\xff\x2f\x00" + b"behind the end"
    head = b"MThd" + (6).to_bytes(4, "big") + b"\x00\x00\x00\x01\x00\x0c"
    chunks = b"XFIH\x00\x00\x00\x01?" + b"MTrk" + len(track).to_bytes(4, "big") + track
    assert read_music(head + chunks) == (12, [[Note(60, 0, 12), Note(62, 12, 24)]])


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda content: b"", "does not begin like a MIDI file"),
        (lambda content: b"RIFF" + content, "does not begin like a MIDI file"),
        (lambda content: content[:14], "cut off before track 0 of 1"),
        (lambda content: content[:-9], "cut off in track 0 of 1"),
        (lambda content: content[:12] + b"\xe7\x28" + content[14:], "counts time in seconds"),
        (lambda content: content[:12] + b"\x00\x00" + content[14:], "counts time in seconds"),
        (lambda content: content[:23] + b"\xf4" + content[24:], "holds no event at byte 1"),
        (lambda content: content[:24] + b"\xff" + content[25:], "holds no event at byte 1"),
        (lambda content: content[:22] + 4 * b"\xff" + content[26:], "holds no number at byte 0"),
        (lambda content: content[:22] + b"\x00\xff\x01\x7f" + content[26:], "in the event at byte"),
    ],
)
def test_damaged_files(tmp_path, harm, message):
    """What is wrong is said, and where."""
    path = tmp_path / "a.mid"
    write(path, *notes([60, 62], 480))
    path.write_bytes(harm(path.read_bytes()))
    tokens, fault = _read(str(path), 1, None)
    assert len(tokens) == 0
    assert message in fault


def test_no_content_raises_anything_else(tmp_path):
    """Random damage gives notes or a fault, whatever the bytes."""
    path, rng = tmp_path / "a.mid", np.random.default_rng(0)
    random_file(path, 0)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    for _ in range(500):
        content = whole.copy()
        places = rng.integers(len(content), size=rng.integers(1, 6))
        content[places] = rng.integers(256, size=len(places))
        path.write_bytes(content.tobytes()[: rng.integers(len(content)) + 1])
        tokens, fault = _read(str(path), 2, None)
        assert len(tokens) % 2 == 0
        assert not (fault and len(tokens))
        assert tokens.max(initial=0) <= REST


def test_hidden_files_and_pipes_are_not_read(tmp_path):
    """Nor is a pipe that is named itself."""
    folder = tmp_path / "tunes"
    (folder / ".trash").mkdir(parents=True)
    for i in range(3):
        write(folder / f"{i}.MID", *notes([60 + i] * 4, 480))
    write(folder / ".trash" / "3.mid", *notes([90], 480))
    (folder / "._0.mid").write_bytes(b"resource fork")
    os.mkfifo(folder / "pipe.mid")
    data = Midi(str(folder), length=8, prompt_length=0, batch_size=1, val_fraction=0.3)
    data.prepare_data()
    assert sum(map(len, (data.train_pieces, data.val_pieces, data.test_pieces))) == 3
    with pytest.raises(ValueError, match="a pipe or a device"):
        Midi(str(folder / "pipe.mid")).prepare_data()


@pytest.mark.parametrize(
    "arrays",
    [
        {"tokens": np.full(24, 200, np.uint8)},
        {"tokens": np.full(24, 60, np.int64)},
        {"tokens": np.full((24, 1), 60, np.uint8)},
        {"ends": np.array([8, 16, 23])},
        {"ends": np.array([16, 8, 24])},
        {"ends": np.array([], int)},
        {"corrupt": np.array([1, 2])},
    ],
)
def test_caches_of_other_tokens_are_made_again(tmp_path, arrays):
    """A whole file that holds no melodies is not believed."""
    for i in range(3):
        write(tmp_path / f"{i}.mid", *notes([60 + i] * 2, 480))
    arguments = {"length": 8, "prompt_length": 0, "batch_size": 1, "val_fraction": 0.3}
    first, second = (Midi(str(tmp_path), **arguments) for _ in range(2))
    expected = first.train_tokens
    (kept,) = (tmp_path / ".cache").iterdir()
    with np.load(kept) as content:
        np.savez_compressed(kept, **{**content, **arrays})
    assert np.array_equal(second.train_tokens, expected)
