"""Text files, read piece by piece."""

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

PIECE = 2**20
"""The number of characters of a piece, which has at most twice as many."""

# Before a blank between two letters of text8: no token of a byte-level encoding spans such a place,
# and no run of characters that text8 makes one blank.
_CUT = re.compile(r"(?<=[a-zA-Z])(?=[ \n][a-zA-Z])")


class UnreadableError(Exception):
    """What is wrong with a file, and the remedy."""

    def __init__(self, fault: str, remedy: str) -> None:
        super().__init__(fault)
        self.remedy = remedy


def pieces(blocks: Iterable[str], size: int = PIECE) -> Iterator[str]:
    """Yield a text in pieces of at least `size` and at most twice as many characters.

    They are cut where no vocabulary sees it: the tokens of the pieces are those of the text. Only
    where so many characters have no blank between two letters a-z is the cut just anywhere.

    Args:
        blocks: The text, cut anywhere.
        size: The least number of characters of a piece but the last.
    """
    rest = ""
    for block in blocks:
        rest, start = rest + block, 0
        while len(rest) - start >= 2 * size:
            cut = _CUT.search(rest, start + size, start + 2 * size)
            end = start + 2 * size if cut is None else cut.end()
            yield rest[start:end]
            start = end
        rest = rest[start:]
    if rest:
        yield rest


def read_text(file: Path, size: int = 2**20) -> Iterator[str]:
    """Yield the text of a file in blocks that are cut anywhere; its lines end with a line feed.

    Args:
        file: A UTF-8 text file, packed if its name ends in `.gz`.
        size: The number of bytes of a block.

    Raises:
        UnreadableError: The file is no UTF-8 text, or damaged.
    """
    decoder = io.IncrementalNewlineDecoder(
        codecs.getincrementaldecoder("utf-8-sig")(), translate=True
    )
    total = 0
    try:
        with gzip.open(file) if file.suffix.lower() == ".gz" else file.open("rb") as stream:
            while block := stream.read(size):
                total += len(block)
                yield decoder.decode(block)
            yield decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        # What was decoded last, including bytes that the decoder had kept, ends here.
        position = total - len(error.object) + error.start
        raise UnreadableError(
            f"byte 0x{error.object[error.start]:02x} at position {position}",
            "convert it, for instance with `iconv -t UTF-8`, or fetch it again.",
        ) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UnreadableError(
            f"damaged gzip data: {error}", "fetch it again, or pack it again."
        ) from error
    except OSError as error:
        raise UnreadableError(
            f"no content that can be read: {error.strerror}", "change its permissions."
        ) from error
