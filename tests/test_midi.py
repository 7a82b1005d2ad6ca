"""Music: from MIDI to tokens and back, the splits of `Midi`, its cache, metrics and outputs."""

import math
import sys
from pathlib import Path

import numpy as np
import pretty_midi
import pytest
import torch

from ddm.commands import data as prepare
from ddm.datamodules import Midi, melody, midi, tokens_to_midi
from ddm.metrics import NoteHellinger, NoteOutliers

ROOT = Path(__file__).resolve().parents[1]
REST = 128


def piece(*notes, program=0, is_drum=False):
    """Return an instrument that plays (pitch, start, end), in seconds."""
    instrument = pretty_midi.Instrument(program=program, is_drum=is_drum)
    instrument.notes = [pretty_midi.Note(90, *(pitch, start, end)) for pitch, start, end in notes]
    return instrument


def at_120(*instruments):
    """Return a piece at 120 quarter notes per minute: a sixteenth lasts 1/8 s."""
    file = pretty_midi.PrettyMIDI(initial_tempo=120)
    file.instruments += instruments
    return file


def write_tunes(folder, num=12, length=24):
    """Write random melodies, one per file; tune i has the pitches from 40 + i on."""
    generator = torch.Generator().manual_seed(0)
    (folder / "deep" / "er").mkdir(parents=True)
    for i in range(num):
        tokens = 40 + i + torch.randint(4, (length,), generator=generator)
        name = f"{i}.mid" if i % 2 else f"deep/er/{i}.MIDI"
        tokens_to_midi(tokens).write(str(folder / name))
    return folder


@pytest.fixture
def tunes(tmp_path):
    """A folder of twelve melodies of 24 sixteenths."""
    return write_tunes(tmp_path / "tunes")


def small(folder, **changes):
    """Return windows of 8 sixteenths, of which 2 are given."""
    arguments = {"length": 8, "prompt_length": 2, "batch_size": 2, "val_fraction": 0.2}
    data = Midi(str(folder), **{**arguments, **changes})
    data.prepare_data()
    return data


def test_notes_need_no_files(tmp_path):
    """Without its files it still reads and writes notes, and says what is missing when asked."""
    data = Midi(str(tmp_path / "nowhere"))
    assert data.decode(data.encode("C4 - F#5")[None]) == ["C4 - F#5"]
    for use in (data.prepare_data, data.train_dataloader):
        with pytest.raises(ValueError, match="`path` must name an existing folder"):
            use()


# Tokens


def test_held_notes_repeat_and_gaps_rest():
    """One token per sixteenth; a short note lasts one; silence before the first note is cut."""
    notes = piece((60, 1.0, 1.5), (62, 1.5, 1.51), (64, 1.75, 2.0))
    assert melody(at_120(notes)).tolist() == [60, 60, 60, 60, 62, REST, 64, 64]


def test_notes_snap_to_the_nearest_sixteenth():
    """A player who is a third of a sixteenth late or early changes nothing."""
    late = piece((60, 0.04, 0.21), (62, 0.29, 0.54))
    assert melody(at_120(late)).tolist() == [60, 60, 62, 62]


def test_skyline():
    """The highest sounding note counts, over all instruments but drums."""
    low, high = piece((50, 0, 1)), piece((70, 0.25, 0.5), (40, 0.5, 1))
    drums = piece((100, 0, 1), is_drum=True)
    file = at_120(drums, low, high)
    assert melody(file).tolist() == [50, 50, 70, 70, 50, 50, 50, 50]
    assert melody(file, track=0).tolist() == [50] * 8
    assert melody(file, track=1).tolist() == [70, 70, 40, 40, 40, 40]
    assert melody(file, track=2).tolist() == []


def test_voices_are_the_highest_notes_from_the_top_down():
    """Chords fill the voices from above, unisons count once, and rests fill up below."""
    one, two = piece((60, 0, 0.25), (50, 0, 0.125)), piece((60, 0, 0.125), (70, 0.125, 0.25))
    three = piece((0, 0, 0.5), (127, 0.375, 0.5))
    file = at_120(one, two, three)
    columns = [[60, 50, 0], [70, 60, 0], [0, REST, REST], [127, 0, REST]]
    for voices in (1, 2, 3):
        expected = [pitch for column in columns for pitch in column[:voices]]
        assert melody(file, voices=voices).tolist() == expected
    assert melody(file, track=1, voices=2).tolist() == [60, REST, 70, REST]
    assert len(melody(file, voices=128)) == 4 * 128


def test_tempo_changes_do_not_bend_the_grid(tmp_path):
    """Quarters at 120 and then at 60 per minute are four sixteenths each."""
    import mido

    file, track = mido.MidiFile(ticks_per_beat=96), mido.MidiTrack()
    for pitch, tempo in ((60, 120), (62, 60), (64, 97)):
        track.append(mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(tempo)))
        track.append(mido.Message("note_on", note=pitch, velocity=90))
        track.append(mido.Message("note_off", note=pitch, time=96))
    file.tracks.append(track)
    file.save(tmp_path / "a.mid")
    read = pretty_midi.PrettyMIDI(str(tmp_path / "a.mid"))
    assert read.get_end_time() == pytest.approx(0.5 + 1 + 60 / 97, abs=1e-3)
    assert melody(read).tolist() == [60] * 4 + [62] * 4 + [64] * 4


@pytest.mark.parametrize("tempo", [50.0, 120.0, 133.0])
def test_round_trip(tempo, tmp_path):
    """Tokens, written as MIDI and read again, are the same; whatever is no pitch is silent."""
    tokens = torch.randint(129, (256,), generator=torch.Generator().manual_seed(0))
    tokens[torch.arange(0, 256, 3)] = REST
    tokens[[0, -1]] = torch.tensor([0, 127])
    file = tmp_path / "a.mid"
    tokens_to_midi(tokens, tempo).write(str(file))
    assert melody(pretty_midi.PrettyMIDI(str(file))).tolist() == tokens.tolist()
    masked = tokens_to_midi(torch.tensor([60, 129, -1, 60, 60, REST]))
    assert [(n.pitch, n.start, n.end) for n in masked.instruments[0].notes] == [
        *((60, 0.0, 0.125), (60, 0.375, 0.625)),
    ]


@pytest.mark.parametrize("voices", [2, 4])
def test_round_trip_of_voices(voices, tmp_path):
    """Voices in order, written as MIDI and read again, are the same, whoever holds a note."""
    generator = torch.Generator().manual_seed(voices)
    roll = torch.rand(64, 128, generator=generator).argsort(1)[:, :voices]
    columns = roll.sort(dim=1, descending=True).values
    columns[torch.arange(0, 62, 3), -1] = REST
    columns[10:20] = columns[10]  # held
    tokens = columns.flatten()
    file = tmp_path / "a.mid"
    tokens_to_midi(tokens, voices=voices).write(str(file))
    read = pretty_midi.PrettyMIDI(str(file))
    assert melody(read, voices=voices).tolist() == tokens.tolist()
    crossing = tokens_to_midi(torch.tensor([60, REST, 70, 60, 129, 60]), voices=2)
    assert [(n.pitch, n.start, n.end) for n in crossing.instruments[0].notes] == [
        *((60, 0.0, 0.375), (70, 0.125, 0.25)),
    ]


def test_names(tunes):
    """Notes have names, which `encode` reads."""
    data = small(tunes)
    assert data.decode(torch.tensor([[60, 61, REST, 129, -1]])) == ["C4 C#4 - ? ?"]
    tokens = torch.arange(129)
    assert torch.equal(data.encode(data.decode(tokens[None])[0]), tokens)
    with pytest.raises(ValueError, match=r"`text` must hold notes .* got 'H4'; write"):
        data.encode("C4 H4")
    choir = small(tunes, voices=2)
    assert choir.decode(torch.tensor([[64, 60, 64, REST]])) == ["E4/C4 E4/-"]
    assert choir.encode("E4/C4 E4/-").tolist() == [64, 60, 64, REST]


# The data module


def test_windows(tunes):
    """Training windows start every `hop` sixteenths of a piece; the others do not overlap."""
    data = small(tunes, hop=4)
    sizes = [len(pieces) for pieces in (data.train_pieces, data.val_pieces, data.test_pieces)]
    assert sizes == [8, 2, 2]
    assert data.train_tokens.shape == (8 * 5, 8)
    assert data.val_tokens.shape == data.test_tokens.shape == (2 * 3, 8)
    starts = [data.train_pieces[0][start : start + 8].tolist() for start in (0, 4, 8, 12, 16)]
    assert data.train_tokens[:5].tolist() == starts
    assert small(tunes).train_tokens.shape == (8 * 5, 8)
    assert data.free.tolist() == [False] * 2 + [True] * 6
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        for batch in loader:
            assert batch["tokens"].dtype == torch.int64
            assert 40 <= batch["tokens"].min() <= batch["tokens"].max() < data.vocab_size
            expected = data.free.expand(batch["tokens"].shape)
            assert torch.equal(batch["free"], expected)
    assert set(next(iter(small(tunes, prompt_length=0).train_dataloader()))) == {"tokens"}


def test_windows_of_voices(tunes):
    """A window of S sixteenths has V S tokens, and starts and prompts fall between sixteenths."""
    data, choir = small(tunes, hop=4), small(tunes, hop=4, voices=3)
    assert (choir.length, choir.prompt_length, choir.vocab_size) == (24, 6, 129)
    assert choir.free.tolist() == [False] * 6 + [True] * 18
    for name in ("train_tokens", "val_tokens", "test_tokens"):
        windows = getattr(choir, name).unflatten(1, (8, 3))
        assert len(windows) == len(getattr(data, name))
        assert (windows[..., 1:] == REST).all()
        assert (windows[..., 0] != REST).all()
    starts = [choir.train_pieces[0][start : start + 24].tolist() for start in (0, 12, 24)]
    assert choir.train_tokens[:3].tolist() == starts


def test_splits_are_made_of_whole_pieces(tunes):
    """No piece stands in two splits, not under two names either; names and seed do not matter."""
    data = small(tunes)
    splits = [
        {bytes(piece) for piece in pieces}
        for pieces in (data.train_pieces, data.val_pieces, data.test_pieces)
    ]
    assert len(set.union(*splits)) == sum(map(len, splits)) == 12
    for file in list(tunes.glob("*.mid")):
        (tunes / f"copy of {file.name}").write_bytes(file.read_bytes())
        file.rename(tunes / f"z{file.name}")
    again = small(tunes, seed=7)
    assert [bytes(piece) for piece in again.val_pieces] == [bytes(p) for p in data.val_pieces]
    assert len(again.train_pieces) == len(data.train_pieces)


def test_windows_of_rests_are_dropped(tmp_path):
    """A window without a note is no music."""
    for i in range(3):
        tokens = torch.full((32,), REST)
        tokens[[0, -1]] = 60 + i
        tokens_to_midi(tokens).write(str(tmp_path / f"{i}.mid"))
    data = small(tmp_path, hop=8)
    assert data.train_tokens.shape == (2, 8)
    assert (data.train_tokens != REST).any(dim=1).all()


def test_cache_is_reused(tunes, tmp_path, monkeypatch):
    """Files are parsed once; other settings and changed files make another cache."""
    cache = tmp_path / "cache"
    data = small(tunes, cache=str(cache))
    (kept,) = cache.iterdir()
    assert kept.suffix == ".npz"
    with monkeypatch.context() as patch:
        patch.delattr(midi, "_read")
        again = small(tunes, cache=str(cache), length=4, prompt_length=0)
        pieces = zip(again.train_pieces, data.train_pieces, strict=True)
        assert all(np.array_equal(one, two) for one, two in pieces)
        with pytest.raises(NameError):
            small(tunes, cache=str(cache), track=0)
    tokens_to_midi(torch.arange(30, 60)).write(str(tunes / "1.mid"))
    changed = small(tunes, cache=str(cache))
    assert 30 in torch.cat([changed.train_tokens, changed.val_tokens, changed.test_tokens])
    assert len(list(cache.iterdir())) == 2


def test_damaged_cache_is_made_again(tunes):
    """Whatever stands in the file of the cache, the tokens are those of the music."""
    data = small(tunes)
    (kept,) = (tunes / ".cache").iterdir()
    whole = kept.read_bytes()
    spoilt = whole[:200] + bytes(60) + whole[260:]
    for content in (b"", b"no cache", whole[:100], whole[:-1], spoilt):
        kept.write_bytes(content)
        assert torch.equal(small(tunes).train_tokens, data.train_tokens)
        assert kept.read_bytes() == whole


def test_half_a_cache_is_never_left(tunes, monkeypatch):
    """A run that is stopped while it writes leaves nothing that could be taken for a cache."""

    def stop(stream, **arrays):
        stream.write(b"PK")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez_compressed", stop)
        with pytest.raises(KeyboardInterrupt):
            small(tunes)
    assert list((tunes / ".cache").iterdir()) == []
    small(tunes)
    assert len(list((tunes / ".cache").iterdir())) == 1


@pytest.mark.slow
def test_processes_parse_alike(tunes, tmp_path, monkeypatch):
    """Several processes give the tokens that one gives."""
    alone = small(tunes, cache=str(tmp_path / "a"))
    monkeypatch.setattr(midi, "_PARALLEL_FROM", 1)
    monkeypatch.setattr(midi.os, "cpu_count", lambda: 2)
    together = small(tunes, cache=str(tmp_path / "b"))
    assert torch.equal(together.train_tokens, alone.train_tokens)


def test_corrupt_files_are_named(tunes):
    """A file that is no MIDI is left out with a warning, also when the cache is read."""
    (tunes / "bad.mid").write_bytes(b"MThd is not enough")
    (tunes / "folder.mid").mkdir()  # no file at all
    (tunes / "broken.mid").symlink_to(tunes / "nowhere.mid")
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"^1 file\(s\) of .* are left out: bad\.mid \("):
            data = small(tunes)
        assert len(data.train_pieces) == 8


def test_bad_input(tunes, tmp_path):
    """Errors name the argument, the rule, the value and the remedy."""
    for changes, message in (
        ({"length": 0}, r"`length` must be at least 1, got 0"),
        ({"hop": 0}, r"`hop` must be at least 1, got 0"),
        ({"track": -1}, r"`track` must be at least 0, got -1"),
        ({"prompt_length": 8}, r"`prompt_length` must be less than `length` \(8\), got 8"),
        ({"val_fraction": 0.5}, r"`val_fraction` must lie in \]0, 0.5\[, got 0.5"),
        ({"length": 25}, r"got 25: a window longer than every piece .* has 24 sixteenths"),
        ({"track": 3}, r"with notes in `track` 3, got none among the 12 file\(s\) .* the track"),
        ({"voices": 0}, r"`voices` must lie in 1\.\.128, got 0"),
        ({"voices": 129}, r"`voices` must lie in 1\.\.128, got 129"),
        ({"length": 25, "voices": 2}, r"got 25: .* has 24 sixteenths"),
        ({"cache": str(tunes / "1.mid")}, r"`cache` must be a folder that can be written"),
    ):
        with pytest.raises(ValueError, match=message):
            small(tunes, **changes)
    with pytest.raises(ValueError, match=r"`ddm data folk --out"):
        small(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"with `\*\.mid` or `\*\.midi` files, got .* with none"):
        small(tmp_path / "empty")
    for i in range(4):
        (tmp_path / "empty" / f"{i}.mid").write_bytes(b"MThd is not enough")
    with pytest.raises(
        ValueError, match=r"none among the 4 .*; 4 cannot be read: 0\.mid .* 2\.mid"
    ):
        small(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"at least 3 different pieces .* got 1 in"):
        small(tunes / "1.mid")


# Metrics


@pytest.mark.parametrize(
    ("sample", "song", "hellinger", "outliers"),
    [
        ([0, 1, 2, 2], [2, 2, 0, 1], 0.0, 0.0),
        ([0, 0, 1, 1], [2, 2, 3, 3], 1.0, 1.0),
        ([0, 0, 0, 0], [0, 0, 1, 1], math.sqrt(1 - math.sqrt(1 / 2)), 0.0),
        ([0, 0, 1, 1], [0, 0, 0, 0], math.sqrt(1 - math.sqrt(1 / 2)), 0.5),
        ([0, 1, 1, 1], [0, 0, 0, 2], math.sqrt(1 - math.sqrt(3 / 16)), 0.75),
        ([0, 0, 0, 4], [0, 0, 0, 0], math.sqrt(1 - math.sqrt(3 / 4)), 0.25),  # 4 is the mask
    ],
)
def test_note_histograms(sample, song, hellinger, outliers):
    """H^2 = 1 - sum sqrt(p q), and the mass of p where q = 0; the prompt does not count."""
    # The prompt differs from the song in a note that would change both values.
    tokens, reference = torch.tensor([[3, *sample]]), torch.tensor([[1, *song]])
    for metric, expected in ((NoteHellinger(4, 1), hellinger), (NoteOutliers(4, 1), outliers)):
        metric.update(tokens, reference)
        assert metric.compute().item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("cls", [NoteHellinger, NoteOutliers])
def test_note_histograms_compare_song_by_song(cls):
    """The value is the mean over songs, whatever the batches; songs are not pooled."""
    tokens, reference = (
        torch.tensor([[0, 0], [1, 1], [2, 2]]),
        torch.tensor([[1, 1], [0, 0], [2, 2]]),
    )
    whole, split = cls(3), cls(3)
    whole.update(tokens, reference)
    for i in range(3):
        split.update(tokens[i : i + 1], reference[i : i + 1])
    assert whole.compute() == split.compute() == pytest.approx(2 / 3)


@pytest.mark.parametrize("cls", [NoteHellinger, NoteOutliers])
def test_note_histogram_errors(cls):
    """Errors name the argument, the rule, the value and the remedy."""
    tokens = torch.zeros(2, 4).long()
    with pytest.raises(ValueError, match=r"`vocab_size` must be at least 1, got 0"):
        cls(0)
    with pytest.raises(ValueError, match=r"`prompt_length` must be at least 0, got -1"):
        cls(4, -1)
    with pytest.raises(ValueError, match=r"`reference` must hold .*\(2, 4\), got \(1, 4\); pass"):
        cls(4).update(tokens, tokens[:1])
    with pytest.raises(ValueError, match=r"`tokens` must be longer than the prompt \(4\)"):
        cls(4, 4).update(tokens, tokens)


def test_held_out_songs_measure_perfect(tunes):
    """A song beside itself has distance 0; beside another, whose notes differ, more."""
    data = small(tunes)
    tokens = data.val_tokens.long()
    same = data.measure(tokens, tokens)
    assert same["note_hellinger"] == same["note_outliers"] == 0
    assert data.measure(tokens, tokens + 50)["note_outliers"] == 1


# Outputs


def test_saved_samples(tunes, tmp_path):
    """Every sample is a MIDI file with its notes; two can be heard and all be seen."""
    tokens = torch.tensor([[60, 60, REST, 64, 65, 65, 65, 67], [REST] * 8, [129, 60] * 4])
    paths = small(tunes).save_samples(tokens, tmp_path)
    assert [path.name for path in paths] == [
        *("samples.txt", "samples.png", "sample_0000.mid", "sample_0000.wav"),
        *("sample_0001.mid", "sample_0001.wav", "sample_0002.mid"),
    ]
    assert all(path.stat().st_size > 0 for path in paths)
    assert paths[0].read_text().startswith("C4 C4 - E4 F4 F4 F4 G4\n- -")
    assert melody(pretty_midi.PrettyMIDI(str(paths[2]))).tolist() == tokens[0].tolist()
    rate, sound = midi.wavfile.read(paths[3])
    assert len(sound) == rate  # eight sixteenths of 1/8 s
    assert np.abs(sound).max() > 10_000
    assert not midi.wavfile.read(paths[5])[1].any()


def test_saved_voices(tunes, tmp_path):
    """The voices of a sample are one MIDI file, and sound at the same time."""
    tokens = torch.tensor([[72, 64, 72, 60] + 6 * [71, REST]])
    paths = small(tunes, voices=2).save_samples(tokens, tmp_path)
    assert paths[0].read_text().startswith("C5/E4 C5/C4 B4/-")
    read = pretty_midi.PrettyMIDI(str(paths[2]))
    assert melody(read, voices=2).tolist() == tokens[0].tolist()
    rate, sound = midi.wavfile.read(paths[3])
    assert len(sound) == rate


def test_shown_samples(tunes):
    """Pianorolls, when their notes came, and the sound of two samples."""
    data = small(tunes)
    tokens = data.val_tokens.long()
    assert len(data.samples_figure(tokens).axes) == len(tokens)
    assert data.samples_text(tokens) == ""
    assert len(data.arrival_figure(tokens.expand(3, -1, -1)).axes) == len(tokens) + 1
    sounds, rate = data.samples_audio(tokens)
    assert [len(sound) for sound in sounds] == [data.length * rate // 8] * 2


# The tunes of music21


def test_prepare_data_without_music21(monkeypatch, capsys, tmp_path):
    """What is missing is named in one line, with the command that installs it."""
    monkeypatch.setitem(sys.modules, "music21", None)
    monkeypatch.setattr(prepare, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        prepare.main(["folk", f"--out={tmp_path}"])
    assert "pip install 'discrete-diffusion[music]'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["folk", "bach"])
def test_prepare_data(name, capsys, tmp_path):
    """It writes MIDI that `Midi` reads; a second run adds what is missing and no more."""
    prepare.main([name, f"--out={tmp_path}", "--limit=4", "--workers=1"])
    files = sorted(tmp_path.rglob("*.mid"))
    assert len(files) == 4
    assert "4 of them new" in capsys.readouterr().out
    kept = files[0].stat().st_mtime_ns
    files[1].unlink()
    prepare.main([name, f"--out={tmp_path}", "--limit=4", "--workers=1"])
    assert "1 of them new" in capsys.readouterr().out
    assert files[0].stat().st_mtime_ns == kept
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == files
    data = small(tmp_path)
    assert len(data.train_pieces) == 2
    assert (data.train_tokens != REST).float().mean() > 0.5


def test_prepare_data_skips_what_cannot_be_written(capsys, tmp_path, monkeypatch):
    """A tune whose repeats explode, or that is no music, is counted and named; no half is left."""
    pieces = {piece.name: piece for piece in prepare.folk_pieces(prepare.corpus_folder())}
    chosen = [pieces["oneills1850/0701-0720_0000"], pieces["oneills1850/0001-0050_0001"]]
    monkeypatch.setattr(prepare, "folk_pieces", lambda root: chosen)
    prepare.main(["folk", f"--out={tmp_path}", "--workers=1"])
    printed = capsys.readouterr().out
    assert "1 cannot be read by music21, such as oneills1850/0701-0720_0000 (Val" in printed
    assert [path.name for path in tmp_path.rglob("*.*")] == ["0001-0050_0001.mid"]
