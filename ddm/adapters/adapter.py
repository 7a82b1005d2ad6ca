"""The base class of adapters, and the ids that a tokenizer knows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ddm.adapters.token_head import TokenHead
from ddm.denoisers import LogLeaveOneOut, NetworkDenoiser, NoTime, Prediction, TimeInput
from ddm.functional import require_at_least, require_instance
from ddm.process import ForwardProcess

LENGTHS = ("max_position_embeddings", "max_sequence_length", "model_length", "n_positions")
"""Names under which configurations keep the longest sequence."""


@dataclass(frozen=True)
class TokenIds:
    """What an adapter needs to know of a vocabulary; give it where there is no tokenizer.

    Attributes:
        vocab_size: Number V of logits.
        mask: Id of the mask.
        pad: Id of padding, None if all tokens of a batch exist.
        eos: Id that ends a text.
        special: Ids that stand for no text, the mask and padding among them.
        num_tokens: Number of ids that have a meaning; logits beyond it are rows of an embedding
            that was rounded up. By default all.
    """

    vocab_size: int
    mask: int | None = None
    pad: int | None = None
    eos: int | None = None
    special: tuple[int, ...] = ()
    num_tokens: int | None = None

    def __post_init__(self) -> None:
        """Check that the ids fit the logits."""
        require_at_least(1, vocab_size=self.vocab_size)
        for name in ("mask", "pad", "eos", "num_tokens"):
            if getattr(self, name) is not None:
                require_at_least(0, **{name: getattr(self, name)})
        for i in self.special:
            require_at_least(0, special=i)
        ids = [i for i in (self.mask, self.pad, self.eos, *self.special) if i is not None]
        needed = max(self.num_tokens or 0, *(i + 1 for i in ids), 0)
        if needed > self.vocab_size:
            raise ValueError(
                f"`tokenizer` must have no more ids than the model has logits, {self.vocab_size}, "
                f"got {needed}; use the model's own tokenizer, or `model.resize_token_embeddings`."
            )

    @classmethod
    def of(cls, model: nn.Module, tokenizer: Any) -> TokenIds:  # noqa: ANN401 (any tokenizer)
        """Read the ids of a tokenizer as transformers has them; pass `TokenIds` through.

        Raises:
            TypeError: It is no tokenizer of transformers.
            ValueError: The tokenizer has more ids than the model has logits.
        """
        if isinstance(tokenizer, TokenIds):
            return tokenizer
        names = ("mask_token_id", "pad_token_id", "eos_token_id", "all_special_ids", "__len__")
        if missing := [name for name in names if not hasattr(tokenizer, name)]:
            raise TypeError(
                f"`tokenizer` must be one of transformers, or `TokenIds`, got {tokenizer!r:.80} "
                f"without `{missing[0]}`; one of tokenizers becomes one by "
                "`transformers.PreTrainedTokenizerFast(tokenizer_object=..., mask_token=...)`."
            )
        config: Any = getattr(model, "config", None)
        mask = tokenizer.mask_token_id
        return cls(
            vocab_size=getattr(config, "vocab_size", len(tokenizer)),
            mask=getattr(config, "mask_token_id", None) if mask is None else mask,
            pad=tokenizer.pad_token_id,
            eos=tokenizer.eos_token_id,
            special=tuple(tokenizer.all_special_ids),
            num_tokens=len(tokenizer),
        )

    def required_mask(self) -> int:
        """Return the mask.

        Raises:
            ValueError: There is none.
        """
        if self.mask is None:
            raise ValueError(
                "`tokenizer` must have a mask token, got none, nor does the model's configuration; "
                "write its `mask_token_id` there, or give `TokenIds(vocab_size, mask=...)` by hand."
            )
        return self.mask

    def never_drawn(self, *but: int | None) -> tuple[int, ...]:
        """Return special ids and those without a meaning, except some."""
        meaningless = range(self.num_tokens or self.vocab_size, self.vocab_size)
        return tuple(sorted({*self.special, *meaningless} - {i for i in but if i is not None}))


class Adapter(NetworkDenoiser):
    """Base class of denoisers made from a network with the conventions of its family.

    A subclass knows how the network is called (`call`), and says what its output means
    (`prediction`). All else, the ids that are never drawn, padding, the longest context and the
    number of tokens evaluated, is written once.

    Args:
        model: The network.
        process: The forward process that it was trained for.
        time: What the network is told of the time.
        pad: Token id of padding, see `NetworkDenoiser`.
        banned: Token ids that are never drawn; they may be given.
    """

    _banned: Tensor
    prediction: type[Prediction] = LogLeaveOneOut
    """What the output means."""
    offset: int = 0
    """How far to the left of a token the network writes its logits."""
    aligned: bool = False
    """Whether texts are padded on the left, so that what is generated begins in one column."""

    def __init__(
        self,
        model: nn.Module,
        process: ForwardProcess,
        *,
        time: TimeInput = NoTime(),  # noqa: B008 (a value without state)
        pad: int | None = None,
        banned: Sequence[int] = (),
    ) -> None:
        require_instance(nn.Module, model=model)
        super().__init__(model, process, time=time, pad=pad)
        # Kernels leave out the mask themselves.
        self.banned = tuple(i for i in banned if i != process.kernel.mask)
        self.register_buffer("_banned", torch.tensor(self.banned, dtype=torch.long), False)
        self.max_length = longest_context(model)
        self._evaluated = [0]  # one count for this denoiser and its runs
        self._head = TokenHead()

    @abstractmethod
    def call(
        self, x_t: Int[Tensor, "B L"], t: Float[Tensor, " B"], free: Bool[Tensor, "B L"] | None
    ) -> Any:  # noqa: ANN401 (whatever the network returns; `output` checks it)
        """Call the network by the conventions of its family and return logits (B, L, V)."""

    def features(
        self, x_t: Int[Tensor, "B L"], t: Float[Tensor, " B"], free: Bool[Tensor, "B L"] | None
    ) -> tuple[Float[Tensor, "B L D"], Callable[[Tensor], Tensor] | None]:
        """Make one network call, but for a last module that makes the logits, see `TokenHead`.

        Raises:
            ValueError: The sequences are too long, or the output has not the shape of logits.
        """
        self.count(x_t, free)
        head = self.token_head() if self._large else None
        if head is not None:
            with self._explaining():
                read = self._head.read(head, lambda: self.call(x_t, t, free))
            if read is not None:
                return read, partial(self._logits, head)
        return self._allowed(self.output(x_t, t, free)), None

    def token_head(self) -> nn.Module | None:
        """Return the module that makes the logits of a token, if the network says which it is."""
        found = getattr(self.backbone, "get_output_embeddings", lambda: None)()
        # Where weights are tied, some name the module that reads tokens.
        return found if isinstance(found, nn.Module) and type(found) is not nn.Embedding else None

    def _logits(self, head: nn.Module, h: Float[Tensor, "B L D"]) -> Float[Tensor, "B L V"]:
        return self._allowed(self._checked(head(h), h.shape[:-1]).to(self._head.dtype))

    def _allowed(self, output: Float[Tensor, "B L D"]) -> Float[Tensor, "B L V"]:
        """Return the logits of the states that a prediction is about, -inf at banned tokens."""
        if self.banned and (output.requires_grad or not output.is_contiguous()):
            output = output.index_fill(-1, self._banned, -torch.inf)
        elif self.banned:
            # The network has handed its output over; a second one of this size would cost time.
            output.index_fill_(-1, self._banned, -torch.inf)
        return output[..., : self.num_predicted]

    def forward(
        self,
        x_t: Int[Tensor, "B L"],
        t: Float[Tensor, " B"],
        free: Bool[Tensor, "B L"] | None = None,
    ) -> Prediction:
        """Make one network call."""
        features, head = self.features(x_t, t, free)
        return self.predict(features, x_t, t, free, head)

    def predict(
        self,
        features: Float[Tensor, "B L D"],
        x_t: Int[Tensor, "B L"],
        t: Float[Tensor, " B"],
        free: Bool[Tensor, "B L"] | None,
        head: Callable[[Tensor], Tensor] | None = None,
    ) -> Prediction:
        """Return what an output says, or what a head would make of features."""
        return self.prediction(self.process, features, x_t, t, free, head)

    @property
    def num_tokens(self) -> int:
        """Tokens that the network has evaluated so far, in all calls together, padding included."""
        return self._evaluated[0]

    def count(self, x_t: Int[Tensor, "B L"], free: Bool[Tensor, "B L"] | None) -> None:
        """Count the tokens that a call will evaluate.

        Raises:
            ValueError: The sequences are too long.
        """
        length = x_t.shape[1]
        if self.max_length is not None and length > self.max_length:
            raise ValueError(
                f"`x` must not be longer than the network's context, {self.max_length} tokens, got "
                f"{length}; shorten the prompt or generate fewer tokens."
            )
        self._evaluated[0] += self.num_evaluated(x_t, free)

    def num_evaluated(self, x_t: Int[Tensor, "B L"], free: Bool[Tensor, "B L"] | None) -> int:
        """Return the tokens that a call evaluates: all, unless the network keeps a cache."""
        return x_t.numel()

    def is_banned(self, x: Int[Tensor, "B L"]) -> Bool[Tensor, "B L"]:
        """Return where tokens stand that are never drawn."""
        return torch.isin(x, self._banned)

    def fits(
        self, x_0: Int[Tensor, "B L"], free: Bool[Tensor, "B L"] | None = None
    ) -> Bool[Tensor, "B L"]:
        """Return where data tokens stand; one that is never drawn may only be given."""
        banned = self.is_banned(x_0)
        return super().fits(x_0, free) & ~(banned if free is None else banned & free)

    def check_data(
        self,
        x_0: Int[Tensor, "B L"],
        free: Bool[Tensor, "B L"] | None = None,
        name: str = "x_0",
    ) -> None:
        """Refuse data that are not those of the model.

        Raises:
            TypeError: They are no integers.
            ValueError: There are others than the tokens of the data, or some that are never drawn
                at free positions.
        """
        super().check_data(x_0, free, name)
        wrong = ~self.fits(x_0, free)
        if bool(wrong.any()):
            raise ValueError(
                "`free` must leave out tokens that are never drawn, got "
                f"{sorted(set(x_0[wrong].tolist()))} at free positions; use "
                "`denoiser.free_of(x_0)`."
            )

    def free_of(self, x: Int[Tensor, "B L"]) -> Bool[Tensor, "B L"]:
        """Return where tokens are text: free, unless they are banned or padding."""
        given = self.is_banned(x)
        return ~(given if self.pad is None else given | (x == self.pad))


def logits_of(output: Any) -> Any:  # noqa: ANN401 (of any network)
    """Return the logits of what a network returns: a tensor, the first of a tuple, or `logits`."""
    if isinstance(output, tuple):
        return output[0]
    if isinstance(output, dict):
        return output.get("logits", output)
    return getattr(output, "logits", output)


def longest_context(model: nn.Module) -> int | None:
    """Return the longest sequence that a network takes, by its configuration; None if unknown.

    Networks in the manner of Roberta count positions from the padding id, so that the first rows
    of their table are not for tokens.
    """
    config = getattr(model, "config", None)
    lengths = [n for n in (getattr(config, name, None) for name in LENGTHS) if isinstance(n, int)]
    for name, module in model.named_modules():
        table = isinstance(module, nn.Embedding) and name.endswith("position_embeddings")
        if table and module.padding_idx is not None:
            lengths.append(module.num_embeddings - module.padding_idx - 1)
    return min(lengths, default=None)
