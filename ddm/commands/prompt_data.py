"""Prompts and texts as the data of a model that somebody else trained."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Bool, Int, Integer
from torch import Tensor
from torchmetrics import Metric

from ddm.adapters import Adapter
from ddm.commands.prompt_file import Line, Piece
from ddm.datamodules import SequenceDataModule
from ddm.metrics import DistinctN, GenerativePerplexity, UnigramEntropy

MASK = "\N{REPLACEMENT CHARACTER}"
"""How a mask is shown."""

Row = tuple[list[int], list[bool]]
"""The tokens of a sequence, and which of them are generated."""


class Prompts(SequenceDataModule):
    """Prompts of any lengths in one tensor, in the tokens of a model.

    The special tokens that the tokenizer puts around a text stand around every line. Lines of
    different lengths are padded: on the left, so that what is generated begins in one column, where
    the model takes that (`Adapter.aligned`), else on the right. A model that knows no padding
    generates more tokens where a prompt is shorter.

    Args:
        lines: The parts of every sequence.
        tokenizer: A tokenizer as transformers has them; None if all parts are token ids.
        denoiser: The model.
        num_tokens: Tokens that a gap has, and that a text has at most.
        language_model: What measures the perplexity of samples, see `GenerativePerplexity`.

    Attributes:
        known: Which sequences have no gap, (N,); in those of others, what stands in gaps means
            nothing.

    Raises:
        ValueError: Lines are too long, cannot be padded, or hold ids that the model does not know.
    """

    known: Bool[Tensor, " N"]

    def __init__(
        self,
        lines: Sequence[Line],
        tokenizer: Any,  # noqa: ANN401 (any tokenizer)
        denoiser: Adapter,
        num_tokens: int,
        *,
        language_model: str | None = None,
    ) -> None:
        super().__init__(batch_size=1, num_workers=0, seed=0)
        self.tokenizer = tokenizer
        self.language_model = language_model
        self.vocab_size = denoiser.process.kernel.vocab_size
        self.mask = denoiser.process.kernel.mask
        before, after = self._around()
        lines = [(before, *line, after) for line in lines]
        rows = [self._row(line, num_tokens) for line in lines]
        width = max(len(ids) for ids, _ in rows)
        if denoiser.pad is None:
            missing = [width - len(ids) for ids, _ in rows]
            rows = [self._row(p, num_tokens, more=m) for p, m in zip(lines, missing, strict=True)]
        self._check(rows, denoiser)
        self._tokens, self._free = _padded(rows, denoiser.pad, denoiser.aligned)
        self.known = torch.tensor([all(p.content is not None for p in line) for line in lines])
        # A text may hold tokens that are never drawn, such as those for what is unknown.
        self._free &= ~denoiser.is_banned(self._tokens) | ~self.known[:, None]
        self.length = self._tokens.shape[1]
        if denoiser.max_length is not None and self.length > denoiser.max_length:
            raise ValueError(
                f"`prompts` must fit into the model's context of {denoiser.max_length} tokens "
                f"together with what is generated, got {self.length} tokens; shorten them, or "
                "lower `num_tokens`."
            )

    @property
    def train_tokens(self) -> Integer[Tensor, "N L"]:
        """All sequences, with shape (N, L)."""
        return self._tokens

    @property
    def val_tokens(self) -> Integer[Tensor, "N L"]:
        """All sequences, with shape (N, L)."""
        return self._tokens

    @property
    def test_tokens(self) -> Integer[Tensor, "N L"]:
        """All sequences, with shape (N, L)."""
        return self._tokens

    @property
    def free(self) -> Bool[Tensor, "N L"]:
        """The positions that are generated, in every sequence others."""
        return self._free

    def encode(self, text: str) -> Int[Tensor, " L"]:
        """Return the tokens of a text, with shape (L,)."""
        return torch.tensor(self._ids(text), dtype=torch.long)

    def decode(self, tokens: Int[Tensor, "B L"]) -> list[str]:
        """Return the text of each sequence, without special tokens; masks become U+FFFD."""
        return [
            "".join(
                MASK * len(run) if is_mask else self._text(run)
                for is_mask, run in ((m, list(r)) for m, r in groupby(row, self.mask.__eq__))
            )
            for row in tokens.tolist()
        ]

    def metrics(self) -> dict[str, Metric]:
        """Return measures of diversity and, with a language model, its perplexity."""
        n = min(4, int(self._free.sum(-1).min()))
        metrics: dict[str, Metric] = {
            "unigram_entropy": UnigramEntropy(),
            f"distinct_{n}": DistinctN(n),
        }
        if self.language_model is not None:
            metrics["generative_perplexity"] = GenerativePerplexity(
                self.decode, self.language_model
            )
        return metrics

    def measure(
        self, tokens: Int[Tensor, "B L"], reference: Int[Tensor, "B L"]
    ) -> dict[str, Tensor]:
        """Return the values of all metrics, of generated tokens alone."""
        metrics = self.metrics()
        free = self._free[torch.arange(len(tokens)) % len(self._free)]
        for row, mask in zip(tokens.cpu(), free, strict=True):
            for metric in metrics.values():
                metric.update(tokens=row[mask][None])
        return {name: metric.compute() for name, metric in metrics.items()}

    def _ids(self, content: str | list[int]) -> list[int]:
        if isinstance(content, list):
            return content
        if self.tokenizer is None:
            raise ValueError(
                "`tokenizer` must be given to read texts, got none, nor does the model have one; "
                "name its folder, or write lists of token ids."
            )
        return list(self.tokenizer.encode(content, add_special_tokens=False))

    def _text(self, ids: list[int]) -> str:
        if self.tokenizer is None:
            return " ".join(map(str, ids)) + " "
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _around(self) -> tuple[Piece, Piece]:
        """Return the special tokens that a tokenizer puts before and behind a text."""
        if self.tokenizer is None:
            return Piece([], False), Piece([], False)
        bare, whole = (self.tokenizer.encode("a", add_special_tokens=s) for s in (False, True))
        first = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), None)
        if first is None:  # the text itself is written in another way
            return Piece([], False), Piece([], False)
        return Piece(whole[:first], False), Piece(whole[first + len(bare) :], False)

    def _row(self, line: Line, num_tokens: int, *, more: int = 0) -> Row:
        """Return the tokens of a line, with some more of them in its last gap."""
        ids, free = [], []
        last = max((i for i, piece in enumerate(line) if piece.content is None), default=-1)
        for i, (content, generated) in enumerate(line):
            if content is None:
                piece = (num_tokens + more * (i == last)) * [0]
            else:
                piece = self._ids(content)[: num_tokens if generated else None]
            ids += piece
            free += len(piece) * [generated]
        return ids, free

    def _check(self, rows: Sequence[Row], denoiser: Adapter) -> None:
        sizes = {len(ids) for ids, _ in rows}
        if denoiser.pad is None and len(sizes) > 1:
            raise ValueError(
                f"`prompts` must hold texts of one length for a model that knows no padding, got "
                f"{min(sizes)} and {max(sizes)} tokens; lower `num_tokens` to the shortest."
            )
        if not all(any(free) for _, free in rows):
            raise ValueError("`prompts` must leave tokens to generate, got an empty text.")
        if (most := max(max(ids) for ids, _ in rows)) >= self.vocab_size:
            raise ValueError(
                f"`tokenizer` must be the model's own, with ids below {self.vocab_size}, got the "
                f"id {most}; name the right one."
            )


def _padded(
    rows: Sequence[Row], pad: int | None, aligned: bool
) -> tuple[Int[Tensor, "N L"], Bool[Tensor, "N L"]]:
    """Return the rows in one tensor, and the positions that are generated."""
    first = [free.index(True) for _, free in rows]
    left = [max(first) - f if aligned and pad is not None else 0 for f in first]
    shape = len(rows), max(n + len(ids) for n, (ids, _) in zip(left, rows, strict=True))
    tokens, mask = torch.full(shape, pad or 0), torch.zeros(shape, dtype=torch.bool)
    for i, (n, (ids, free)) in enumerate(zip(left, rows, strict=True)):
        tokens[i, n : n + len(ids)] = torch.tensor(ids)
        mask[i, n : n + len(ids)] = torch.tensor(free)
    return tokens, mask
