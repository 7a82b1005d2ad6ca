"""Denoisers that wrap a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ddm.denoisers.denoiser import Denoiser
from ddm.denoisers.time_input import Time, TimeInput
from ddm.functional import require_at_least, require_instance
from ddm.process import ForwardProcess

SMALL = 1024
"""Largest vocabulary whose logits are computed at all positions, needed or not."""


class NetworkDenoiser(Denoiser):
    """Base class of denoisers that wrap a network; a subclass says what its output means.

    Args:
        backbone: Network (x_t (B, L), what `time` says) -> (B, L, V), or (B, L, K). If it has a
            module `token_head`, the last layer, and leaves that out when called `with_head=False`,
            logits are computed where they are needed only.
        process: The forward process that the denoiser undoes.
        time: What the network is told of the time; by default t itself, or nothing if the network
            has an attribute `time_free` that is true.
        pad: Token id of padding. Where it is given, the network is also told which tokens exist,
            as `attention_mask` (B, L), 1 for tokens and 0 for padding.
    """

    def __init__(
        self,
        backbone: nn.Module,
        process: ForwardProcess,
        *,
        time: TimeInput = Time(),  # noqa: B008 (a value without state)
        pad: int | None = None,
    ) -> None:
        super().__init__(process)
        require_instance(nn.Module, backbone=backbone)
        require_instance(TimeInput, time=time)
        if pad is not None:
            require_at_least(0, pad=pad)
        self.backbone = backbone
        self.time = time
        self.pad = pad
        self.time_free = time.time_free or bool(getattr(backbone, "time_free", False))
        self.min_time = time.min_time

    def output(
        self, x_t: Int[Tensor, "B L"], t: Float[Tensor, " B"], free: Bool[Tensor, "B L"] | None
    ) -> Float[Tensor, "B L D"]:
        """Make one network call.

        Raises:
            ValueError: The output does not have the shape of logits.
        """
        with self._explaining():
            output = self.call(x_t, t, free)
        return self._checked(output, x_t.shape)

    def features(
        self, x_t: Int[Tensor, "B L"], t: Float[Tensor, " B"], free: Bool[Tensor, "B L"] | None
    ) -> tuple[Float[Tensor, "B L D"], Callable[[Tensor], Tensor] | None]:
        """Make one network call, but for a head of its own; return what that reads, and the head.

        Without such a head it is the output, of the states that are predicted.
        """
        size, head = self.num_predicted, getattr(self.backbone, "token_head", None)
        if head is None or not self._large:
            return self.output(x_t, t, free)[..., :size], None
        told = self.attention(x_t, free)
        with self._explaining():
            features = self.backbone(x_t, *self.time_input(t), **told, with_head=False)

        def logits(h: Tensor) -> Tensor:
            made = self._checked(head(h), h.shape[:-1])[..., :size]
            return made.to(torch.promote_types(made.dtype, torch.float32))

        return features, logits

    def call(
        self, x_t: Int[Tensor, "B L"], t: Float[Tensor, " B"], free: Bool[Tensor, "B L"] | None
    ) -> Any:  # noqa: ANN401 (whatever the network returns; `output` checks it)
        """Call the network; a subclass knows networks of other conventions."""
        return self.backbone(x_t, *self.time_input(t), **self.attention(x_t, free))

    def time_input(self, t: Float[Tensor, " B"]) -> tuple[Tensor, ...]:
        """Return what the network is told of the time."""
        return self.time(self.process, t, self._dtype(t))

    def attention(
        self, x_t: Int[Tensor, "B L"], free: Bool[Tensor, "B L"] | None
    ) -> dict[str, Int[Tensor, "B L"]]:
        """Return what the network is told of padding: a free position is none."""
        if self.pad is None:
            return {}
        exists = x_t != self.pad
        return {"attention_mask": (exists if free is None else exists | free).long()}

    @property
    def output_sizes(self) -> set[int]:
        """The numbers of logits per position that the network may return."""
        return {self.process.kernel.vocab_size, self.process.kernel.num_states}

    @property
    def num_predicted(self) -> int:
        """Number of states that a prediction is about: a mask beyond V has logits at times."""
        return self.process.kernel.vocab_size

    @property
    def _large(self) -> bool:
        """Whether logits that nobody needs are worth leaving out."""
        return self.process.kernel.vocab_size > SMALL

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        """Say what is wrong where a call of the network fails for a known reason."""
        try:
            yield
        except IndexError as error:  # of an embedding, most likely
            kernel = self.process.kernel
            raise ValueError(
                f"the network must know all {kernel.num_states} states of the kernel, got one that "
                f"does not: {error}; the mask is {kernel.mask}: if it is an id of the vocabulary, "
                "say so, `Absorbing(vocab_size, mask=...)`."
            ) from error
        except TypeError as error:
            if self.pad is None or "attention_mask" not in str(error):
                raise TypeError(
                    f"the network must take what `{type(self).__name__}` calls it with, got "
                    f"'{error}'; wrap it in a module that does: `MeanDenoiser` passes tokens and "
                    "times, with `time=NoTime()` tokens alone."
                ) from error
            raise TypeError(
                f"`pad` must be None for a network that takes no `attention_mask`, got {self.pad}; "
                "leave it out, or let the network's `forward` take the mask."
            ) from error

    def _checked(self, output: Any, shape: torch.Size) -> Float[Tensor, "B L D"]:  # noqa: ANN401
        sizes, found = self.output_sizes, tuple(getattr(output, "shape", ()))
        if found[:-1] != tuple(shape) or found[-1] not in sizes:
            raise ValueError(
                f"the network must return logits of the shape {(*shape, max(sizes))}, one for "
                f"each state of the kernel, got {type(output).__name__} of the shape {found}; set "
                "the kernel's `vocab_size` to the network's, or wrap the network."
            )
        checked: Tensor = output
        return checked

    def _dtype(self, t: Tensor) -> torch.dtype:
        """Return the type that the network wants its time in."""
        declared: torch.dtype | None = getattr(self.backbone, "time_dtype", None)
        if declared is not None:
            return declared
        own = (p.dtype for p in self.backbone.parameters() if p.is_floating_point())
        return next(own, t.dtype)
