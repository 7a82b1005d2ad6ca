"""Text: vocabularies, documents in files, the cache of tokens, splits and metrics."""

import gzip
import io
import itertools
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddm.datamodules import (
    BPE,
    CharacterVocabulary,
    GPT2Vocabulary,
    Text,
    Text8Vocabulary,
    cache,
    corpus,
    reading,
    token_files,
    trigram_sample,
)
from ddm.datamodules.cache import reading_cache
from ddm.datamodules.corpus import Corpus, Files
from ddm.datamodules.reading import pieces
from ddm.pictures import save_figure, text_figure


def small_text(**changes) -> Text:
    """Return the built-in text in windows of 100 characters."""
    return Text(**{"length": 100, "batch_size": 256, **changes})


def texts(data: Text) -> list[str]:
    """Return the training, the validation and the test text."""
    streams = (data.train_stream, data.val_stream, data.test_stream)
    return [data.decode(stream[None])[0] for stream in streams]


def test_text_tokens_decode_to_the_text():
    """Encoding and decoding are inverse; the vocabulary is sorted; the mask becomes U+FFFD."""
    text = "naïve 日本 𝄞\n"
    vocabulary = CharacterVocabulary(text)
    assert list(vocabulary.characters) == sorted(set(text))
    tokens = vocabulary.encode(text)
    assert tokens.dtype == torch.int64
    assert vocabulary.decode(tokens[None]) == [text]
    assert vocabulary.decode(torch.tensor([[0, len(vocabulary), -1]])) == ["\n\ufffd\ufffd"]


def test_saved_samples_are_text(tmp_path):
    """The picture of samples is their text, not a heat map of its tokens."""
    data = small_text()
    tokens = data.val_tokens[:3].long()
    text, picture = data.save_samples(tokens, tmp_path)
    assert text.read_text().count(72 * "-") == 2
    with Image.open(picture) as image:
        inches = data.samples_figure(tokens).get_size_inches()
        assert image.size == pytest.approx(150 * inches, abs=1)


def test_letters_that_the_font_lacks_are_drawn_as_boxes(tmp_path):
    """No warning, which the suite makes an error, for each of a page of samples."""
    assert save_figure(text_figure("\u0757 \u65e5"), tmp_path / "x.png").is_file()


def test_text_splits_partition_the_documents():
    """The splits are whole topics, in order, of about the sizes asked for."""
    data = small_text(val_fraction=0.1)
    train, val, test = texts(data)
    text = train + val + test
    assert 0.03 < len(val) / len(text) < 0.17
    assert 0.03 < len(test) / len(text) < 0.17
    # Topics end with a blank line.
    assert train.endswith("\n\n")
    assert val.endswith("\n\n")
    assert "".join(sorted(set(text))) == data.vocabulary.characters


def test_builtin_text_does_not_leak():
    """No window of 100 held-out characters stands anywhere in the training text."""
    data = small_text()
    train, _, _ = texts(data)
    for tokens in (data.val_tokens, data.test_tokens):
        for window in data.decode(tokens):
            assert window not in train


def test_text_windows_cover_their_split():
    """Training windows overlap by half, the others not at all; a last, partial one is dropped."""
    data = small_text()
    train, val, _ = texts(data)
    assert data.decode(data.train_tokens[:3]) == [train[at : at + 100] for at in (0, 50, 100)]
    assert "".join(data.decode(data.val_tokens)) == val[: len(val) // 100 * 100]


def test_text_reads_files(tmp_path):
    """One file is cut at the character; the sorted files of a folder are the documents."""
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a.txt").write_text("0123456789" * 8, encoding="utf-8")
    data = Text(str(tmp_path / "inner" / "a.txt"), length=5, batch_size=2, val_fraction=0.1)
    assert texts(data) == ["0123456789" * 6 + "0123", "45678901", "23456789"]
    (tmp_path / "b.txt").write_text("0" * 79, encoding="utf-8")
    (tmp_path / "z.txt").write_text("z" * 79, encoding="utf-8")
    (tmp_path / "folder.txt").mkdir()
    data = Text(str(tmp_path), length=5, batch_size=2, val_fraction=0.33)
    assert texts(data) == ["0" * 79 + "\n", "0123456789" * 8 + "\n", "z" * 79 + "\n"]


@pytest.mark.parametrize("num", [2, 3, 10])
def test_few_large_files(num, tmp_path):
    """Where no file ends near the cuts, they are at the exact token, as in a single file."""
    for k in range(num):
        (tmp_path / f"{k}.txt").write_text(f"{k} " * 500, encoding="utf-8")
    data = Text(str(tmp_path), length=5, batch_size=2, val_fraction=0.01)
    sizes = [len(text) for text in texts(data)]
    assert sum(sizes) == num * 1001
    assert sizes[1:] == [pytest.approx(num * 10, abs=1)] * 2


def test_text_without_words(tmp_path):
    """Numbers have no words to share, and are measured by what they have."""
    (tmp_path / "numbers.txt").write_text("0123456789 " * 50, encoding="utf-8")
    data = Text(str(tmp_path / "numbers.txt"), length=5, batch_size=2, val_fraction=0.1)
    assert set(data.measure(data.val_tokens.long(), data.val_tokens.long())) == {
        "unigram_entropy",
        "distinct_4",
    }


def test_word_share_tells_text_from_trigrams():
    """Held-out text scores 1; training text scores higher than its trigram model."""
    data = small_text()
    trigrams = trigram_sample(data.train_stream.long(), 100, 100, torch.Generator().manual_seed(0))
    shares = {}
    for name, tokens in (
        ("held out", data.val_tokens),
        ("training", data.train_tokens[::67]),
        ("trigrams", trigrams),
    ):
        metric = data.metrics()["word_share_4"]
        metric.update(tokens.long())
        shares[name] = metric.compute().item()
    assert shares["held out"] == 1
    # Measured .62 and .05.
    assert shares["training"] > 0.4 > 0.2 > shares["trigrams"]


def test_text_refuses_a_checkpoint_of_other_tokens(tmp_path):
    """Tokens of a checkpoint mean nothing under another vocabulary."""
    path = tmp_path / "a.txt"
    path.write_text("abc" * 30, encoding="utf-8")
    data = Text(str(path), length=3, batch_size=1)
    data.load_state_dict(data.state_dict())
    path.write_text("abd" * 31, encoding="utf-8")
    with pytest.raises(ValueError, match=r"must give the 3 tokens .* first in \('c', 'd'\)"):
        Text(str(path), length=3, batch_size=1).load_state_dict(data.state_dict())


def test_text_reads_gzip(tmp_path):
    """Packed files are read like plain ones; one that stands alone and is damaged is named."""
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(("abc" * 30).encode()))
    for where in (path, tmp_path):
        assert texts(Text(str(where), length=3, batch_size=1)) == ["abc" * 27, "abcab", "cabc"]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(
        ValueError, match=r"UTF-8 text, but '.*a\.txt\.gz' has damaged gzip .*; fetch it again"
    ):
        Text(str(path), length=3, batch_size=1)


def test_text8_spelling():
    """Letters are small, digits are words, all else is one space."""
    vocabulary = Text8Vocabulary()
    assert len(vocabulary) == 27
    tokens = vocabulary.encode("Ab, c-\n42é!")
    assert vocabulary.decode(tokens[None]) == ["ab c four two "]


WORDS = "The quick brown fox\njumps over the lazy dog's tail; 12 \n\n times.  Été was hot\n" * 9
LINES = "The cat  sat.\n\nOn 12 mats, été!\n    indented\nlast \n end\n" * 40


def bpe_from_files(folder):
    """Return a vocabulary like GPT-2's, from two files, and the one that wrote them."""
    trained = BPE(LINES, 300)
    trained.tokenizer.model.save(str(folder))
    files = {"vocab_file": "vocab.json", "merges_file": "merges.txt"}
    return GPT2Vocabulary(**{k: str(folder / v) for k, v in files.items()}), trained


def test_bpe_round_trip(tmp_path):
    """Decoding gives the text again; the mask shows; files keep every token's number."""
    from_files, trained = bpe_from_files(tmp_path)
    size = len(trained)
    assert 256 < size <= 300
    for vocabulary in (trained, from_files):
        tokens = vocabulary.encode(LINES)
        assert len(tokens) < len(LINES.encode())
        assert tokens.max() < len(vocabulary) == size
        assert vocabulary.decode(tokens[None]) == [LINES]
        masked = torch.tensor([[int(tokens[0]), size, size + 1, -1, int(tokens[1])]])
        begin, end = vocabulary.decode(tokens[None, :1])[0], vocabulary.decode(tokens[None, 1:2])[0]
        assert vocabulary.decode(masked) == [f"{begin}\ufffd\ufffd\ufffd{end}"]
    assert from_files.tokens == trained.tokens
    assert torch.equal(from_files.encode(LINES), trained.encode(LINES))


@pytest.mark.parametrize("size", [5, 20, 200])
def test_pieces_have_the_tokens_of_the_text(tmp_path, size):
    """Where a text is cut changes no token of a byte-level encoding, nor of text8's spelling."""
    encoding, _ = bpe_from_files(tmp_path)
    for blocks in ([LINES], list(LINES), [LINES[:99], LINES[99:]]):
        cut = list(pieces(blocks, size))
        assert len(cut) > 1
        assert "".join(cut) == LINES
        assert all(size <= len(piece) <= 2 * size for piece in cut[:-1])
    for vocabulary, whole in (
        (encoding, torch.tensor(encoding.tokenizer.encode(WORDS).ids)),
        (Text8Vocabulary(), Text8Vocabulary().encode(WORDS)),
    ):
        parts = [vocabulary.encode(piece) for piece in pieces([WORDS], max(size, 40))]
        assert torch.equal(torch.cat(parts), whole)


def test_a_text_without_blanks_is_cut_anyway():
    """The memory that a text takes is bounded, whatever the text."""
    assert list(map(len, pieces(["x" * 100], 15))) == [30, 30, 30, 10]


# The documents in files, and their cache


@pytest.fixture
def folder(tmp_path):
    """Return a folder with three documents of 19 lines, one of them packed."""
    place = tmp_path / "texts"
    (place / "deep").mkdir(parents=True)
    for i, name in enumerate(("a.txt", "deep/b.txt.gz", "c.txt")):
        content = f"line of text number {i}\r\n".encode() * 19
        (place / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    return place


ROUGH = {"length": 8, "batch_size": 2, "val_fraction": 0.3}


@pytest.mark.parametrize(
    "vocabulary",
    [CharacterVocabulary, Text8Vocabulary, partial(BPE, vocab_size=270)],
    ids=["characters", "text8", "BPE"],
)
def test_cache_gives_what_was_made(folder, vocabulary, monkeypatch):
    """The second time, text is neither trained on, encoded nor read; the tokens are the same."""
    data = Text(str(folder), vocabulary=vocabulary, **ROUGH)
    documents = [f"line of text number {i}\n" * 19 + "\n" for i in range(3)]
    tokens = torch.cat([data.encode(documents[i]) for i in (0, 2, 1)])
    streams = (data.train_stream, data.val_stream, data.test_stream)
    assert torch.equal(torch.cat(streams).long(), tokens)
    assert torch.equal(data.train_stream.long(), data.encode(documents[0]))

    def refuse(*args):
        raise AssertionError("the text is read again")

    monkeypatch.setattr(corpus, "read_text", refuse)
    again = Text(str(folder), vocabulary=vocabulary, **{**ROUGH, "length": 9})
    assert again.vocabulary.tokens == data.vocabulary.tokens
    assert torch.equal(again.train_stream, data.train_stream)
    assert torch.equal(again.encode(documents[0]), data.encode(documents[0]))
    with pytest.raises(AssertionError, match="again"):
        Text(str(folder), vocabulary=partial(BPE, vocab_size=280), **ROUGH)
    (folder / "c.txt").write_bytes(b"something else and longer\n" * 30)
    with pytest.raises(AssertionError, match="again"):
        Text(str(folder), vocabulary=vocabulary, **ROUGH)


def test_tokens_are_mapped_not_read(folder):
    """Windows are views of the mapped file, of two bytes per token; writing leaves it alone."""
    files = Files(folder)
    vocabulary = CharacterVocabulary(files)
    for _ in range(2):
        tokens, ends = files.tokens(vocabulary.encode, len(vocabulary), vocabulary.identity)
        assert isinstance(tokens, np.memmap)
        assert tokens.dtype == np.uint16
        assert ends.tolist() == [419, 838, 1257]
    data = Text(str(folder), **ROUGH)
    first = data.train_tokens[0].tolist()
    data.train_tokens[0] = 0
    assert Text(str(folder), **ROUGH).train_tokens[0].tolist() == first


@pytest.mark.parametrize("place", ["tokens", "ends"])
def test_half_a_cache_is_never_left(folder, tmp_path, monkeypatch, place):
    """A run that is stopped while it writes leaves nothing that could be taken for tokens."""
    data = Text(str(folder), cache=str(tmp_path / "whole"), **ROUGH)
    write_header = token_files._write_header

    def interrupted(stream, *rest):
        if place == "ends" or rest[-1] > 0:  # the header is written last once more
            raise KeyboardInterrupt
        write_header(stream, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(
            *((np, "save") if place == "ends" else (token_files, "_write_header")), interrupted
        )
        with pytest.raises(KeyboardInterrupt):
            Text(str(folder), cache=str(tmp_path / "cache"), **ROUGH)
    left = [file.suffix for file in (tmp_path / "cache").rglob("*") if file.is_file()]
    assert set(left) == {".json"}
    again = Text(str(folder), cache=str(tmp_path / "cache"), **ROUGH)
    assert torch.equal(again.train_stream, data.train_stream)


def test_damaged_cache_is_made_again(folder):
    """Files of the cache that are cut off are written again."""
    data = Text(str(folder), **ROUGH)
    for file in (folder / ".cache").rglob("*.*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:-5])
    again = Text(str(folder), **ROUGH)
    assert torch.equal(again.train_stream, data.train_stream)
    assert again.vocabulary.tokens == data.vocabulary.tokens


def test_unreadable_files_of_a_folder_are_left_out(folder):
    """They are counted and named, also when the cache is read; nothing of them gets in."""
    whole = Text(str(folder), **ROUGH)
    (folder / "bad.txt").write_bytes("§§§ caf".encode() + b"\xe9")
    (folder / "cut.txt.gz").write_bytes((folder / "deep" / "b.txt.gz").read_bytes()[:-9])
    (folder / "none.txt").write_bytes(b"")
    for _ in range(2):
        with pytest.warns(
            UserWarning, match=r"2 file\(s\) .*bad\.txt \(byte 0xe9 at position 10\)"
        ):
            data = Text(str(folder), **ROUGH)
        assert data.vocabulary.tokens == whole.vocabulary.tokens
        assert torch.equal(data.train_stream, whole.train_stream)
        assert torch.equal(data.test_stream, whole.test_stream)


@pytest.mark.parametrize(("start", "tail"), [(7, b"\xe9"), (2**20, b"\xff"), (2**20 - 1, b"\xc3.")])
def test_position_of_a_byte_that_is_no_text(tmp_path, start, tail):
    """It is that in the file, however many blocks come before, even for a character cut in two."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * start + tail)
    with pytest.raises(ValueError, match=f"has byte 0x{tail[0]:x} at position {start};"):
        Files(path)


def test_held_out_words_are_those_of_the_held_out_text(folder):
    """All words of validation and test text, none of the training text alone."""
    (folder / "a.txt").write_text("unseen " * 60, encoding="utf-8")
    data = Text(str(folder), **ROUGH)
    assert data.held_out_words == {"line", "of", "text", "number"}


def test_corpus_in_memory():
    """Text in memory is iterated like files, and what is made of it is not kept."""
    text = Corpus(["ab", "cd"])
    assert (len(text), list(text)) == (2, ["ab", "cd"])
    calls = itertools.count()
    assert [text.remember("n", lambda: next(calls)) for _ in range(2)] == [0, 1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.txt", None, r"`path` must name an existing file .*absent\.txt'; check"),
        (
            "empty.txt",
            b"",
            r"`path` must hold text, got '.*empty\.txt', which is empty or cannot be",
        ),
        ("latin.txt", b"caf\xe9", r"`path` must hold UTF-8 .*0xe9 at position 3; .*iconv"),
        ("short.txt", b"abc", r"`length` must be at most the 3 tokens of the training split"),
        ("note.md", b"abc", r"`path` must name a folder with `\*\.txt` or .* with none; rename"),
    ],
)
def test_errors_of_files(tmp_path, name, content, message):
    """Errors of files name the path, what is wrong with it, and the remedy."""
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Text(str(path.parent if path.suffix == ".md" else path))


def test_cache_that_cannot_be_written(folder):
    """The error names `cache`; another folder helps."""
    with pytest.raises(
        ValueError, match=r"`cache` must be a folder that can be written, got '.*a\.txt"
    ):
        Text(str(folder), cache=str(folder / "a.txt"), **ROUGH)


def test_hidden_files_and_copies_are_left_out(folder):
    """No copy of a document, hidden or under another name, is held out or trained on."""
    before = Text(str(folder), **ROUGH)
    for name in (".ipynb_checkpoints/a-checkpoint.txt", "deep/.hidden.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("hidden § ", encoding="utf-8")
    assert Files(folder).left_out == {}
    content = (folder / "a.txt").read_bytes().replace(b"\r\n", b"\n")
    (folder / "z.txt").write_bytes(content.replace(b"\n", b"\r\n"))
    (folder / "zz.txt").symlink_to(folder / "a.txt")
    with pytest.warns(UserWarning, match=r"2 file\(s\) .*copies .*z\.txt \(a copy of a\.txt\)"):
        data = Text(str(folder), **ROUGH)
    assert texts(data) == texts(before)


def test_suffixes_in_any_case(folder):
    """`*.TXT` and `*.Txt.GZ` are text as well, and packed ones are unpacked."""
    (folder / "b.TXT").write_text("small\n", encoding="utf-8")
    (folder / "c.Txt.GZ").write_bytes(gzip.compress(b"packed\n"))
    text = "".join(Files(folder))
    assert "small" in text
    assert "packed" in text


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_line_ends_are_line_feeds(tmp_path, size):
    """Whatever the system that wrote the text, also where a block ends inside of a line end."""
    (tmp_path / "a.txt").write_bytes(b"a\r\nb\rc\n\r\n\r")
    assert "".join(reading.read_text(tmp_path / "a.txt", size)) == "a\nb\nc\n\n\n"


def test_a_piece_ends_inside_of_a_line_end(tmp_path, monkeypatch):
    """Where no place to cut is near, a piece may end anywhere, but not inside of a line end."""
    text = b"1" * (2**21 - 1) + b"\r\n" + b"2" * 9
    (tmp_path / "a.txt").write_bytes(text)
    assert "".join(Files(tmp_path / "a.txt")) == text.decode().replace("\r", "")


def test_replaced_files_of_equal_size_and_time_are_read_again(folder):
    """What a copy that keeps times puts in the place of a file is another text."""
    file = folder / "a.txt"
    old, stat = Text(str(folder), **ROUGH), file.stat()
    file.write_bytes(file.read_bytes().replace(b"line", b"nile"))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert not torch.equal(Text(str(folder), **ROUGH).train_stream, old.train_stream)


def damaged(content: bytes, position: int) -> bytes:
    """Return content with one bit changed."""
    return content[:position] + bytes([content[position] ^ 16]) + content[position + 1 :]


def foreign(folder) -> None:
    """Put tokens of a larger vocabulary, with right checksums, in the place of the cache."""
    (tokens,) = folder.glob(".cache/*/tokens-*.npy")
    (ends,) = folder.glob(".cache/*/ends-*.npy")
    with tokens.open("wb") as stream:
        made = token_files.write_tokens(
            stream, [["a" * 400], ["a" * 800]], lambda text: torch.full((len(text),), 60_000), 2**16
        )
    content = io.BytesIO()
    np.save(content, np.append(made.ends, made.checksum))
    with ends.open("wb") as stream:
        corpus._seal(content.getvalue(), stream)


@pytest.mark.parametrize(
    "harm",
    [
        lambda file: file.write_bytes(damaged(file.read_bytes(), -1)),
        lambda file: file.write_bytes(damaged(file.read_bytes(), 70)),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(bytes(len(file.read_bytes()))),
        lambda file: file.write_bytes(file.read_bytes() + b"more"),
        lambda file: (file.unlink(), file.mkdir()),
        lambda file: (file.unlink(), os.mkfifo(file)),
        lambda file: (file.rename(f"{file}.old"), file.symlink_to(f"{file}.old")),
        lambda file: file.chmod(0o666),
    ],
    ids=["bit", "header", "empty", "zeros", "longer", "folder", "pipe", "link", "open"],
)
@pytest.mark.parametrize("kind", ["tokens-*", "ends-*", "characters.*", "files.*"])
def test_caches_that_cannot_be_trusted_are_made_again(folder, harm, kind, request):
    """Damage, links, and files of others are noticed; what is made again has the right tokens."""
    name = request.node.callspec.id.split("-")[-1]
    whole = texts(Text(str(folder), **ROUGH))  # and not mapped any more
    (file,) = folder.glob(f".cache/*/{kind}")
    harm(file)
    if name == "folder":
        with pytest.raises(ValueError, match="`cache` must be a folder that can be written"):
            Text(str(folder), **ROUGH)
        return
    again = Text(str(folder), **ROUGH)
    assert texts(again) == whole
    assert file.is_file()
    assert not file.is_symlink()
    assert file.stat().st_uid == os.geteuid()
    assert file.stat().st_mode & 0o002 == 0


@pytest.mark.parametrize(("user", "owner"), [(1, 1), (1, 0), (0, 1), (1, 2)])
def test_caches_of_others_are_not_read(tmp_path, monkeypatch, user, owner):
    """A file of a cache belongs to the user, to the owner of the data, or to root."""
    kept, found = tmp_path / "kept", tmp_path.stat()
    kept.write_bytes(b"tokens")
    fields = list(kept.stat())
    fields[4] += owner  # the fifth is the user
    whose = os.stat_result(fields)
    monkeypatch.setattr(cache.os, "fstat", lambda descriptor: whose)
    monkeypatch.setattr(cache.os, "geteuid", lambda: found.st_uid + user)
    if owner in (0, user):
        with reading_cache(kept, tmp_path) as stream:
            assert stream.read() == b"tokens"
    else:
        with (
            pytest.raises(PermissionError, match="belongs to somebody else"),
            reading_cache(kept, tmp_path),
        ):
            pass


def test_tokens_outside_of_the_vocabulary_are_made_again(folder):
    """A cache whose checksums are right is still not believed to hold tokens 60,000 of V = 20."""
    whole = texts(Text(str(folder), **ROUGH))  # and not mapped any more
    foreign(folder)
    assert texts(Text(str(folder), **ROUGH)) == whole


def test_vocabularies_outside_of_their_range(folder):
    """Tokens that do not fit are not wrapped around in silence."""

    class Wrong(CharacterVocabulary):
        def encode(self, text):
            return super().encode(text) + 70_000

    with pytest.raises(ValueError, match=r"`vocabulary` must give tokens in 0\.\.\d+, got 700"):
        Text(str(folder), vocabulary=Wrong, **ROUGH)


def test_pipes_and_devices_are_no_text(tmp_path):
    """They are refused, not waited for."""
    os.mkfifo(tmp_path / "pipe.txt")
    for path in (tmp_path / "pipe.txt", "/dev/zero"):
        with pytest.raises(ValueError, match="a pipe or a device"):
            Files(Path(path))
    with pytest.raises(ValueError, match="with none; rename"):
        Files(tmp_path)
    arguments = {"vocab_file": str(tmp_path / "pipe.txt"), "merges_file": "no.txt"}
    with pytest.raises(ValueError, match="`vocab_file` must be an existing file"):
        GPT2Vocabulary(**arguments)


def test_damaged_vocabulary_files(tmp_path):
    """Both files are named."""
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_text("{")
    files = {"vocab_file": "vocab.json", "merges_file": "merges.txt"}
    with pytest.raises(ValueError, match="`vocab_file` and `merges_file` must be those of one"):
        GPT2Vocabulary(**{k: str(tmp_path / v) for k, v in files.items()})


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_short_windows_are_measured(length):
    """Windows shorter than four tokens are measured by their own n-grams."""
    data = Text(length=length, batch_size=2)
    tokens = data.val_tokens[:8].long()
    assert f"distinct_{length}" in data.measure(tokens, tokens)
