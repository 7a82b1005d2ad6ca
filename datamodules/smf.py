"""The notes of standard MIDI files, in ticks, whatever else is in them.

A melody needs when notes begin and end, and nothing else: key and time signatures, tempi, texts and
controllers are passed over unread, so nothing that is wrong with them costs the notes.

References:
    | Standard MIDI Files 1.0 (MIDI Manufacturers Association, 1996)
    | https://midi.org/standard-midi-files
"""

from collections import defaultdict
from typing import NamedTuple

DRUMS = 9  # the channel that plays percussion
_DATA_BYTES = {0x8: 2, 0x9: 2, 0xA: 2, 0xB: 2, 0xC: 1, 0xD: 1, 0xE: 2}
_META, _END_OF_TRACK = 0xFF, b"\x2f"
_SYSTEM = (0xF0, 0xF7)


class Note(NamedTuple):
    """A pitch, from the tick at which it begins to that at which it ends."""

    pitch: int
    start: int
    end: int


class Music(NamedTuple):
    """The notes of a file.

    Attributes:
        resolution: The number of ticks of a quarter note.
        instruments: The notes of each program of each channel of each track, in the order in which
            they first end a note; without percussion.
    """

    resolution: int
    instruments: list[list[Note]]


def read_music(content: bytes) -> Music:
    """Return the notes of a file.

    Raises:
        ValueError: It is no MIDI file, is cut off, or counts time in seconds.
    """
    if content[:4] != b"MThd" or len(content) < 14:
        raise ValueError("it does not begin like a MIDI file")
    length = int.from_bytes(content[4:8], "big")
    num_tracks, resolution = (int.from_bytes(content[i : i + 2], "big") for i in (10, 12))
    if not 0 < resolution < 0x8000:
        raise ValueError(f"it counts time in seconds, not in beats (division {resolution:#06x})")
    instruments: dict[tuple[int, int, int], list[Note]] = {}
    position, track = 8 + length, 0
    while track < num_tracks:
        kind, size = content[position : position + 4], content[position + 4 : position + 8]
        if len(size) < 4:
            raise ValueError(f"it is cut off before track {track} of {num_tracks}")
        position += 8
        end = position + int.from_bytes(size, "big")
        if kind == b"MTrk":  # other chunks are for other programs
            if end > len(content):
                raise ValueError(f"it is cut off in track {track} of {num_tracks}")
            _read_track(content[position:end], track, instruments)
            track += 1
        position = end
    return Music(resolution, [notes for key, notes in instruments.items() if key[1] != DRUMS])


def _read_track(
    content: bytes, track: int, instruments: dict[tuple[int, int, int], list[Note]]
) -> None:
    """Add the notes of a track to those of its instruments, which are (track, channel, program)."""
    sounding: dict[tuple[int, int], list[int]] = defaultdict(list)
    programs = [0] * 16
    position = tick = running = 0  # an event without a status has that of the last one
    while position < len(content):
        step, position = _number(content, position)
        tick += step
        begin = position
        status = content[begin] if begin < len(content) else 0
        if status in (_META, *_SYSTEM):
            position += 1
            if status == _META:
                position += 1
                if content[begin + 1 : position] == _END_OF_TRACK:
                    break
            size, position = _number(content, position)
            position += size
            if position > len(content):
                raise ValueError(f"it is cut off in the event at byte {begin} of track {track}")
            continue
        if status & 0x80:
            running, position = status, position + 1
        kind, channel = running >> 4, running & 0xF
        data = content[position : position + _DATA_BYTES.get(kind, 0)]
        if not data or len(data) < _DATA_BYTES[kind] or max(data) > 0x7F:
            raise ValueError(f"it holds no event at byte {begin} of track {track}")
        position += len(data)
        if kind == 0xC:
            programs[channel] = data[0]
        elif kind == 0x9 and data[1] > 0:
            sounding[channel, data[0]].append(tick)
        elif kind in (0x8, 0x9):
            # All that sounds in this pitch ends, but what begins at this very tick goes on.
            starts = sounding.pop((channel, data[0]), [])
            ended = [start for start in starts if start != tick]
            if ended:
                notes = instruments.setdefault((track, channel, programs[channel]), [])
                notes += [Note(data[0], start, tick) for start in ended]
                if kept := [start for start in starts if start == tick]:
                    sounding[channel, data[0]] = kept


def _number(content: bytes, position: int) -> tuple[int, int]:
    """Return a number of seven bits per byte, and the position behind it."""
    value = 0
    for offset, byte in enumerate(content[position : position + 4]):
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, position + offset + 1
    raise ValueError(f"it holds no number at byte {position} of a track")
