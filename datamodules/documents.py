"""Documents of a corpus that does not fit: shards, each of which is read from its beginning."""

import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ddm.datamodules.cache import visible
from ddm.datamodules.reading import UnreadableError, read_text

LINES = (".jsonl", ".jsonl.gz")
WHOLE = (".txt", ".txt.gz")


class Documents(ABC):
    """Documents in shards, the unit that processes share; a document is held in memory, not more.

    They are known by their number in their shard, and a shard always gives the same ones: a run
    that is resumed reads from the document where it was stopped.
    """

    @property
    @abstractmethod
    def num_shards(self) -> int:
        """The number of shards."""

    @abstractmethod
    def read(self, shard: int, first: int = 0) -> Iterator[str]:
        """Yield the documents of a shard, from the one of that number on.

        Raises:
            UnreadableError: The shard is missing, cut off or damaged, from this document on.
        """


def readable(documents: Documents, shard: int, first: int = 0) -> Iterator[tuple[int, str]]:
    """Yield the documents of a shard and their numbers, up to where it is damaged; warn of that."""
    try:
        yield from enumerate(documents.read(shard, first), first)
    except UnreadableError as error:
        warnings.warn(
            f"shard {shard} has {error}; it is left out from there on: {error.remedy}",
            stacklevel=2,
        )


class Shards(Documents):
    r"""The files of a folder: JSON lines, a document each, or text files, each a document.

    They are `*.jsonl`, `*.jsonl.gz`, `*.txt` and `*.txt.gz`, at any depth and in sorted order;
    hidden ones are not looked at. Whole processes read whole files, so that there should be at
    least as many of equal size as processes times workers.

    Args:
        path: The folder.
        column: The key of the text in a JSON line.

    Raises:
        ValueError: There is no such file.

    Example:
        >>> from pathlib import Path
        >>> from ddm.datamodules import Shards
        >>> Path("shards").mkdir()
        >>> _ = Path("shards/0.jsonl").write_text('{"text": "One."}\n{"text": "Two."}\n')
        >>> list(Shards("shards").read(0))
        ['One.', 'Two.']
    """

    def __init__(self, path: str, *, column: str = "text") -> None:
        self.files = visible(Path(path), *LINES, *WHOLE) if Path(path).is_dir() else []
        if not self.files:
            raise ValueError(
                f"`path` must name a folder with {', '.join(f'*{end}' for end in (*LINES, *WHOLE))}"
                f" at any depth, got '{path}'; check the folder, or write a document per JSON line."
            )
        self.column = column

    @property
    def num_shards(self) -> int:
        """The number of files."""
        return len(self.files)

    def read(self, shard: int, first: int = 0) -> Iterator[str]:
        """Yield the documents of a file; an empty line counts as an empty one."""
        file = self.files[shard]
        if not file.name.lower().endswith(LINES):
            if first == 0:
                yield "".join(read_text(file))
            return
        for number, line in enumerate(_lines(file)):
            if number >= first:
                yield self._text(line, number)

    def _text(self, line: str, number: int) -> str:
        if not line.strip():
            return ""
        try:
            return _column(json.loads(line), self.column)
        except (ValueError, RecursionError) as error:
            raise UnreadableError(
                f"no document in line {number + 1}: {error}", "fetch it again, or mend the line."
            ) from error


class HuggingFace(Documents):
    r"""A dataset of the library `datasets`: streamed, or a folder that `save_to_disk` has written.

    Needs `pip install 'discrete-diffusion[stream]'`.

    Args:
        path: The folder, or what `datasets.load_dataset` takes: a name, "json", "parquet", ....
        name: The configuration of the dataset.
        split: The split that is read; validation and test windows are held out from it.
        column: The column of the text.
        data_files: The files, for `path` "json", "parquet" and so on.

    Raises:
        ValueError: The library is not installed, or finds no such data.

    Example:
        >>> from pathlib import Path
        >>> from ddm.datamodules import HuggingFace
        >>> _ = Path("texts.jsonl").write_text('{"text": "One."}\n{"text": "Two."}\n')
        >>> list(HuggingFace("json", data_files="texts.jsonl").read(0))
        ['One.', 'Two.']
    """

    def __init__(
        self,
        path: str,
        name: str | None = None,
        *,
        split: str = "train",
        column: str = "text",
        data_files: str | list[str] | None = None,
    ) -> None:
        try:
            import datasets  # slow to import, and few need it
        except ModuleNotFoundError as error:
            raise ValueError(
                "`datasets`, the library of Hugging Face, must be installed; run `pip install "
                "'discrete-diffusion[stream]'`."
            ) from error
        try:
            if Path(path).is_dir() and data_files is None:
                found = datasets.load_from_disk(path)
                found = found[split] if isinstance(found, datasets.DatasetDict) else found
                self.dataset = found.to_iterable_dataset(num_shards=max(1, min(len(found), 64)))
            else:
                self.dataset = datasets.load_dataset(
                    path, name, split=split, data_files=data_files, streaming=True
                )
        except Exception as error:  # whatever the library raises: no network, no such name, ...
            raise ValueError(
                f"`path` must name a dataset of Hugging Face or a folder of one, got '{path}' "
                f"({error}); check name, split and connection."
            ) from error
        self.column = column

    @property
    def num_shards(self) -> int:
        """The number of shards of the dataset."""
        return int(self.dataset.num_shards)

    def read(self, shard: int, first: int = 0) -> Iterator[str]:
        """Yield the rows of a shard; those before the first are passed over one by one."""
        rows = self.dataset.shard(num_shards=self.num_shards, index=shard)
        for row in rows.skip(first) if first else rows:
            try:
                yield _column(row, self.column)
            except ValueError as error:
                raise UnreadableError(str(error), "name the column of the text.") from error


def _column(row: Any, column: str) -> str:  # noqa: ANN401
    text = row.get(column) if isinstance(row, dict) else None
    if not isinstance(text, str):
        raise ValueError(f"it has no text under `column` '{column}'")
    return text


def _lines(file: Path) -> Iterator[str]:
    rest = ""
    for block in read_text(file):
        *lines, rest = (rest + block).split("\n")
        yield from lines
    if rest:
        yield rest
