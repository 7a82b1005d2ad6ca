"""Music as tokens, one per voice and sixteenth note: from MIDI, to MIDI, and to sound."""

from collections.abc import Iterable

import numpy as np
import pretty_midi
from jaxtyping import Int, UInt8
from torch import Tensor

from ddm.datamodules.smf import Note
from ddm.pictures import NUM_PITCHES

REST = NUM_PITCHES
"""The token of silence; the tokens below are MIDI pitches, 60 being the middle C."""

_MAX_STEPS = 100_000  # a melody of three hours is a damaged file
SAMPLE_RATE = 16_000  # Hz


def melody(
    midi: pretty_midi.PrettyMIDI, track: int | None = None, *, voices: int = 1
) -> UInt8[np.ndarray, " T"]:
    """Return the highest sounding pitches of every sixteenth of a piece, from its first note on.

    Notes begin and end at the nearest sixteenth of the file's own beats, and last at least one.

    Args:
        midi: The piece.
        track: The index of the one instrument that is read, drums not counted; by default all.
        voices: The number of pitches per sixteenth, from the top down, filled up with rests.

    Returns:
        Tokens of type uint8, with shape (T,), `voices` of them per sixteenth; empty if there is no
        note.
    """
    instruments = [instrument for instrument in midi.instruments if not instrument.is_drum]
    if track is not None:
        instruments = instruments[track : track + 1]
    # In seconds the grid would bend with the tempo; in ticks it is even.
    notes = [
        Note(note.pitch, midi.time_to_tick(note.start), midi.time_to_tick(note.end))
        for instrument in instruments
        for note in instrument.notes
    ]
    return highest(notes, midi.resolution, voices)


def highest(notes: Iterable[Note], resolution: int, voices: int) -> UInt8[np.ndarray, " T"]:
    """Return the highest pitches of every sixteenth of notes; see `melody`.

    Args:
        notes: The notes, with times in ticks.
        resolution: The number of ticks of a quarter note.
        voices: The number of pitches per sixteenth.

    Raises:
        ValueError: The notes go on for hours.
    """
    spans = []
    for note in notes:
        start, end = (int(4 * tick / resolution + 0.5) for tick in (note.start, note.end))
        spans.append((start, max(end, start + 1), note.pitch))
    if not spans:
        return np.zeros(0, dtype=np.uint8)
    first, last = min(span[0] for span in spans), max(span[1] for span in spans)
    if last - first > _MAX_STEPS:
        raise ValueError(f"{last - first} sixteenths long")
    # What sounds is numbered from the top down, so that the highest notes are the smallest numbers.
    roll = np.full((last - first, NUM_PITCHES), NUM_PITCHES, dtype=np.uint8)
    for start, end, pitch in spans:
        roll[start - first : end - first, pitch] = NUM_PITCHES - 1 - pitch
    top = np.partition(roll, range(voices), axis=1)[:, :voices]
    return np.where(top < NUM_PITCHES, NUM_PITCHES - 1 - top, REST).astype(np.uint8).reshape(-1)


def tokens_to_midi(
    tokens: Int[Tensor, " L"], tempo: float = 120.0, *, voices: int = 1
) -> pretty_midi.PrettyMIDI:
    """Return music as MIDI for a piano; a pitch in neighboring sixteenths is one held note.

    Args:
        tokens: Tokens with shape (L,); whatever is no pitch, such as a mask, is silent.
        tempo: The tempo in quarter notes per minute.
        voices: The number of tokens per sixteenth.
    """
    midi = pretty_midi.PrettyMIDI(initial_tempo=tempo)
    piano = pretty_midi.Instrument(program=0)
    columns = tokens.cpu().numpy().reshape(-1, voices)
    for pitch in np.unique(columns[(columns >= 0) & (columns < REST)]).tolist():
        sounds = (columns == pitch).any(axis=1)
        edges = np.flatnonzero(np.diff(sounds, prepend=False, append=False))
        for start, end in (edges.reshape(-1, 2) * 15 / tempo).tolist():
            piano.notes.append(pretty_midi.Note(90, pitch, start, end))
    piano.notes.sort(key=lambda note: note.start)
    midi.instruments.append(piano)
    return midi


def synthesize(tokens: Int[Tensor, " L"], voices: int) -> np.ndarray:
    """Return the sound of music at 120 quarter notes per minute, `SAMPLE_RATE` values per second.

    It is as long as the tokens, even if they end with rests.
    """
    audio = np.zeros(len(tokens) // voices * SAMPLE_RATE // 8, dtype=np.float32)
    midi = tokens_to_midi(tokens, voices=voices)
    if midi.instruments[0].notes:  # silence cannot be normalized
        sound = midi.synthesize(SAMPLE_RATE)[: len(audio)]
        audio[: len(sound)] = sound
    return audio


def note_name(token: int) -> str:
    """Return "C4" for the middle C, "-" for a rest and "?" for what is neither."""
    if token == REST:
        return "-"
    return pretty_midi.note_number_to_name(token) if 0 <= token < REST else "?"
