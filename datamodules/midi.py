"""Windows of music from a folder of MIDI files, one token per voice and sixteenth note."""

import hashlib
import multiprocessing
import os
import warnings
import zipfile
import zlib
from concurrent.futures import ProcessPoolExecutor
from functools import cached_property, partial
from io import BufferedIOBase
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from lightning.pytorch.utilities import rank_zero_info
from matplotlib.figure import Figure
from scipy.io import wavfile
from torch import Tensor
from torchmetrics import Metric

from ddm.arrivals import pianoroll_arrivals
from ddm.datamodules.cache import fingerprint, reading_cache, visible, write_cache
from ddm.datamodules.music import (
    REST,
    SAMPLE_RATE,
    highest,
    note_name,
    synthesize,
    tokens_to_midi,
)
from ddm.datamodules.sequences import SequenceDataModule
from ddm.datamodules.smf import read_music
from ddm.files import replacing
from ddm.functional import require_at_least
from ddm.metrics import NoteHellinger, NoteOutliers, UnigramEntropy
from ddm.pictures import NUM_PITCHES, pianoroll_figure, pianoroll_trajectory_figure
from ddm.progress import progress_bar

_FORMAT = 2  # of the cache; raise it when the same file gives other tokens
_PARALLEL_FROM = 500  # files, below which starting processes takes longer than parsing
_SHOWN = 16


class _Melodies(NamedTuple):
    pieces: list[np.ndarray]
    corrupt: list[str]


class Midi(SequenceDataModule):
    """Music of MIDI files as tokens, one per voice and sixteenth note: 128 pitches and a rest.

    With one voice the tokens are those of the Lakh pianoroll task: the highest note that sounds in
    each sixteenth of the file's own beats, whatever its tempo, so a held note repeats its pitch.
    With V voices they are the V highest notes of each sixteenth, from the top down and filled up
    with rests, one sixteenth after the other: token :math:`V s + v` is voice v in sixteenth s.
    Silence before the first note is cut, pieces with equal tokens count once, and a piece shorter
    than a window is left out. Whole pieces are held out, chosen by a hash of their tokens: the
    split does not depend on the seed or the names of files. Validation and test windows do not
    overlap; windows of nothing but rests are dropped.

    Files are parsed once, in several processes if they are many; the tokens are kept in `cache`
    under a name that changes with the files and the settings.

    References:
        | A Continuous Time Framework for Discrete Denoising Models (Campbell et al., 2022)
        | https://arxiv.org/abs/2205.14987

    Args:
        path: A folder with `*.mid` or `*.midi` files at any depth, or one such file. `ddm data
            folk` writes one.
        length: The number of sixteenths of a window, which has `voices` times as many tokens.
        hop: The number of sixteenths between the starts of training windows; `length // 2` by
            default.
        prompt_length: The number of first sixteenths that samples are given, as in the paper; 0
            generates without a prompt.
        voices: The number V of notes that are read at a time, in 1..128.
        track: The index of the one instrument that is read, drums not counted; by default, all of
            them together.
        batch_size: The number of windows of a batch, in each process.
        val_fraction: The share of the pieces held out for validation, and again for testing, in
            ]0, 0.5[.
        cache: The folder of the parsed tokens; `.cache` inside of `path` by default.
        num_workers: The number of processes that load batches; 0 is fastest for data in memory.
        seed: The seed of the order of the training windows.

    Attributes:
        length: The number of tokens L of a window.
        prompt_length: The number of first tokens that samples are given.

    Raises:
        ValueError: If an argument is out of its domain; and when the files are read, before
            training, if none can be, or fewer than three different pieces are as long as a window.

    Example:
        >>> from pathlib import Path
        >>> import torch
        >>> from ddm.datamodules import Midi, tokens_to_midi
        >>> Path("songs").mkdir()
        >>> for start in (60, 62, 64):
        ...     tokens_to_midi(torch.arange(start, start + 16)).write(f"songs/{start}.mid")
        >>> data = Midi("songs", length=8, prompt_length=2, val_fraction=0.3)
        >>> data.train_tokens[0].diff().tolist(), data.free.long()
        ([1, 1, 1, 1, 1, 1, 1], tensor([0, 0, 1, 1, 1, 1, 1, 1]))
    """

    def __init__(
        self,
        path: str = "data/folk",
        *,
        length: int = 256,
        hop: int | None = None,
        prompt_length: int = 32,
        voices: int = 1,
        track: int | None = None,
        batch_size: int = 64,
        val_fraction: float = 0.05,
        cache: str | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers, seed=seed)
        # Not logged: the logger refuses a name that the model has with another value.
        self.save_hyperparameters(logger=False)
        hop = max(1, length // 2) if hop is None else hop
        require_at_least(1, length=length, hop=hop)
        require_at_least(0, prompt_length=prompt_length, track=0 if track is None else track)
        if prompt_length >= length:
            raise ValueError(
                f"`prompt_length` must be less than `length` ({length}), got {prompt_length}: "
                "nothing would be left to generate; lower it."
            )
        if not 0 < val_fraction < 0.5:
            raise ValueError(
                f"`val_fraction` must lie in ]0, 0.5[, got {val_fraction}: validation and "
                "testing take as much each; try 0.05."
            )
        if not 1 <= voices <= NUM_PITCHES:
            raise ValueError(
                f"`voices` must lie in 1..{NUM_PITCHES}, got {voices}: the notes of a sixteenth "
                "differ; take 1 for melodies, 4 for chorales."
            )
        self.vocab_size = REST + 1
        self.voices = voices
        self.length = voices * length
        self.shape = (length, voices) if voices > 1 else ()
        self.hop = voices * hop
        self.prompt_length = voices * prompt_length
        self.path = Path(path)
        self.track = track
        self.val_fraction = val_fraction
        self.cache = None if cache is None else Path(cache)

    def prepare_data(self) -> None:
        """Parse the files and cache their tokens; with several processes one does it first.

        Raises:
            ValueError: If no file can be read, or the pieces are too few or too short.
        """
        _ = self._pieces

    @cached_property
    def _pieces(self) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
        """The pieces of the three splits.

        They are read when they are needed, so that a model can go on from notes that somebody types
        in where its data set is not at hand.
        """
        melodies = _load(self.path, self.voices, self.track, self.cache)
        if melodies.corrupt:
            warnings.warn(
                f"{len(melodies.corrupt)} file(s) of '{self.path}' cannot be read as MIDI and are "
                f"left out: {'; '.join(melodies.corrupt[:3])}.",
                stacklevel=2,
            )
        return self._split(melodies.pieces)

    @property
    def train_pieces(self) -> list[np.ndarray]:
        """The tokens of the pieces for training."""
        return self._pieces[0]

    @property
    def val_pieces(self) -> list[np.ndarray]:
        """The tokens of the pieces for validation."""
        return self._pieces[1]

    @property
    def test_pieces(self) -> list[np.ndarray]:
        """The tokens of the pieces for testing."""
        return self._pieces[2]

    @cached_property
    def train_tokens(self) -> Int[Tensor, "N L"]:
        """The training windows, with shape (N, L), which start every `hop` sixteenths."""
        return _windows(self.train_pieces, self.length, self.hop)

    @cached_property
    def val_tokens(self) -> Int[Tensor, "N L"]:
        """The validation windows, with shape (N, L); they do not overlap."""
        return _windows(self.val_pieces, self.length, self.length)

    @cached_property
    def test_tokens(self) -> Int[Tensor, "N L"]:
        """The test windows, with shape (N, L); they do not overlap."""
        return _windows(self.test_pieces, self.length, self.length)

    def decode(self, tokens: Int[Tensor, "B L"]) -> list[str]:
        """Return the notes by name, "C4" being the middle C, "-" a rest and "?" anything else.

        The notes of the voices in one sixteenth are joined by "/".
        """
        columns = tokens.unflatten(1, (-1, self.voices)).tolist()
        return [" ".join("/".join(map(note_name, notes)) for notes in row) for row in columns]

    def encode(self, text: str) -> Int[Tensor, " L"]:
        """Return the tokens of notes by name, as `decode` writes them, with shape (L,).

        Raises:
            ValueError: If a word is no note.
        """
        tokens = {note_name(token): token for token in range(REST + 1)}
        words = text.replace("/", " ").split()
        unknown = [word for word in words if word not in tokens]
        if unknown:
            raise ValueError(
                f"`text` must hold notes like 'C4' or 'F#5' and rests '-', got {unknown[0]!r}; "
                "write flats as sharps."
            )
        return torch.tensor([tokens[word] for word in words], dtype=torch.long)

    def metrics(self) -> dict[str, Metric]:
        """Return the distance from the notes of the same song, and the entropy of collapse.

        The notes of all voices count alike.
        """
        return {
            "note_hellinger": NoteHellinger(self.vocab_size, self.prompt_length),
            "note_outliers": NoteOutliers(self.vocab_size, self.prompt_length),
            "unigram_entropy": UnigramEntropy(),
        }

    def samples_figure(self, tokens: Int[Tensor, "B L"]) -> Figure:
        """Return pianorolls of samples, at most 16."""
        prompt_length = self.prompt_length // self.voices
        return pianoroll_figure(tokens[:_SHOWN], voices=self.voices, prompt_length=prompt_length)

    def samples_text(self, tokens: Int[Tensor, "B L"]) -> str:
        """Return nothing: names of notes in lines are no picture."""
        return ""

    def samples_audio(self, tokens: Int[Tensor, "B L"]) -> tuple[list[Float[Tensor, " T"]], int]:
        """Return the sound of the first two samples."""
        return [torch.from_numpy(synthesize(row, self.voices)) for row in tokens[:2]], SAMPLE_RATE

    def save_samples(self, tokens: Int[Tensor, "B L"], folder: Path) -> list[Path]:
        """Write every sample as a MIDI file, the first two as audio, and a pianoroll of the first.

        Returns:
            The files written.
        """
        paths = super().save_samples(tokens, folder)
        for i, row in enumerate(tokens):
            paths.append(folder / f"sample_{i:04d}.mid")
            with replacing(paths[-1]) as unfinished:
                tokens_to_midi(row, voices=self.voices).write(str(unfinished))
            if i < 2:
                paths.append(folder / f"sample_{i:04d}.wav")
                audio = 32767 * synthesize(row, self.voices)
                with replacing(paths[-1]) as unfinished:
                    wavfile.write(unfinished, SAMPLE_RATE, audio.astype(np.int16))
        return paths

    def trajectory_figure(
        self, times: Float[Tensor, "T M"], states: Int[Tensor, "T M L"]
    ) -> Figure:
        """Return pianorolls of samples on their way from noise to data; masks are gray."""
        prompt_length = self.prompt_length // self.voices
        return pianoroll_trajectory_figure(
            times, states, voices=self.voices, prompt_length=prompt_length
        )

    def arrival_figure(self, states: Int[Tensor, "T M L"]) -> Figure:
        """Return pianorolls of samples in which the color of a note says when it came."""
        return pianoroll_arrivals(states, voices=self.voices)

    def _split(
        self, pieces: list[np.ndarray]
    ) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
        # A piece under two names may not stand in two splits, and keeps its place among others.
        distinct = {hashlib.sha256(piece.tobytes()).digest(): piece for piece in pieces}
        steps, path = self.length // self.voices, self.path
        long = [piece for _, piece in sorted(distinct.items()) if len(piece) >= self.length]
        rank_zero_info(
            f"'{path}': {len(long)} pieces; {len(pieces) - len(distinct)} more are repeated and "
            f"{len(distinct) - len(long)} are shorter than {steps} sixteenths."
        )
        if not long:
            longest = max(map(len, pieces)) // self.voices
            raise ValueError(
                f"`length` must leave a window, got {steps}: a window longer than every "
                f"piece of '{path}' (the longest has {longest} sixteenths); shorten the windows or "
                "give longer pieces."
            )
        if len(long) < 3:
            raise ValueError(
                f"`path` must hold at least 3 different pieces of `length` ({steps}) "
                f"sixteenths, one for each split, got {len(long)} in '{path}'; give more files or "
                "shorten the windows."
            )
        held_out = max(1, round(self.val_fraction * len(long)))
        return long[2 * held_out :], long[:held_out], long[held_out : 2 * held_out]


def _windows(pieces: list[np.ndarray], length: int, hop: int) -> Int[Tensor, "N L"]:
    views = (np.lib.stride_tricks.sliding_window_view(piece, length)[::hop] for piece in pieces)
    windows = np.concatenate(list(views))
    return torch.from_numpy(windows[(windows != REST).any(axis=1)]).short()


def _read(file: str, voices: int, track: int | None) -> tuple[np.ndarray, str]:
    # Returns the tokens and, for a file that is damaged, what is wrong with it.
    try:
        music = read_music(Path(file).read_bytes())
        chosen = music.instruments if track is None else music.instruments[track : track + 1]
        return highest(chain.from_iterable(chosen), music.resolution, voices), ""
    except (ValueError, OSError) as error:
        return np.zeros(0, dtype=np.uint8), str(error)


def _load(path: Path, voices: int, track: int | None, cache: Path | None) -> _Melodies:
    if not path.exists():
        raise ValueError(
            f"`path` must name an existing folder of MIDI files, got '{path}'; `ddm data "
            f"folk --out {path}` writes one, or check the spelling and the working folder "
            f"('{Path.cwd()}')."
        )
    folder = path if path.is_dir() else path.parent
    files = [path]
    if path.is_dir():
        files = visible(path, ".mid", ".midi")
    elif not path.is_file():
        raise ValueError(
            f"`path` must name a folder or a file, got '{path}', a pipe or a device; name a folder "
            "of MIDI files."
        )
    if not files:
        raise ValueError(
            f"`path` must name a folder with `*.mid` or `*.midi` files, got '{path}' with none; "
            "rename the files, or name another folder."
        )
    names = [file.relative_to(folder).as_posix() for file in files]
    key = fingerprint(files, folder, _FORMAT, voices, track)
    kept = (folder / ".cache" if cache is None else cache) / f"midi-{key}.npz"
    try:
        # Opened here: NumPy leaves a damaged file open.
        with reading_cache(kept, path) as stream, np.load(stream) as content:
            return _checked(content["tokens"], content["ends"], content["corrupt"], voices)
    except (OSError, EOFError, ValueError, LookupError, zipfile.BadZipFile, zlib.error):
        pass  # not there, or damaged: made again
    results = _read_all(files, voices, track)
    corrupt = [f"{name} ({e})" for name, (_, e) in zip(names, results, strict=True) if e]
    melodies = _Melodies([piece for piece, _ in results if len(piece)], corrupt)
    if not melodies.pieces:
        reason = f"; {len(corrupt)} cannot be read: {'; '.join(corrupt[:3])}" if corrupt else ""
        which = "" if track is None else f" in `track` {track}"
        raise ValueError(
            f"`path` must hold MIDI files with notes{which}, got none among the {len(files)} "
            f"file(s) of '{path}'{reason}; check the files{which and ' and the track'}."
        )
    write_cache(kept, partial(_save, melodies))
    return melodies


def _read_all(files: list[Path], voices: int, track: int | None) -> list[tuple[np.ndarray, str]]:
    paths = [str(file) for file in files]
    read = partial(_read, voices=voices, track=track)
    progress = partial(
        progress_bar, total=len(paths), desc="parsing MIDI", unit="file", leave=False
    )
    workers = min(16, os.cpu_count() or 1)
    if len(paths) < _PARALLEL_FROM or workers == 1:
        return list(progress(map(read, paths)))
    # Spawned, since torch may already run threads, which a fork would cut off.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        return list(progress(pool.map(read, paths, chunksize=32)))


def _checked(tokens: np.ndarray, ends: np.ndarray, corrupt: np.ndarray, voices: int) -> _Melodies:
    """Return what a cache holds.

    Raises:
        ValueError: It holds something else.
    """
    lengths = np.diff(ends, prepend=0)
    whole = tokens.dtype == np.uint8 and tokens.shape == (ends[-1],) and (lengths > 0).all()
    if not whole or (lengths % voices).any() or tokens.max() > REST or corrupt.dtype.kind != "U":
        raise ValueError("the cache holds no melodies")
    return _Melodies(np.split(tokens, ends[:-1]), corrupt.tolist())


def _save(melodies: _Melodies, stream: BufferedIOBase) -> None:
    np.savez_compressed(
        stream,
        tokens=np.concatenate(melodies.pieces),
        ends=np.cumsum([len(piece) for piece in melodies.pieces]),
        corrupt=np.array(melodies.corrupt, dtype=np.str_),
    )
