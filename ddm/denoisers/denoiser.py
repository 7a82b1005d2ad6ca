"""The base class of denoisers, and those that wrap a network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ddm.denoisers.prediction import LogLeaveOneOut, LogPosterior, LogRatio, Prediction
from ddm.denoisers.time_input import Time, TimeInput
from ddm.functional import log1mexp, require_at_least, require_instance, times_like
from ddm.process import ForwardProcess

SMALL = 1024
"""Largest vocabulary whose logits are computed at all positions, needed or not."""


class Denoiser(nn.Module, ABC):
    """What samplers, losses and schedule optimizers call: `denoiser(x_t, t) -> Prediction`.

    Args:
        process: The forward process that the denoiser undoes.
    """

    time_free: bool = False
    """Whether the raw output does not depend on t, so that unchanged rows can be reused."""
    min_time: float = 0.0
    """The smallest time above 0 that the model knows; sampling schedules have none below it."""
    calls_per_prediction: int = 1
    """Network calls that a prediction costs."""

    def __init__(self, process: ForwardProcess) -> None:
        super().__init__()
        require_instance(ForwardProcess, process=process)
        self.process = process

    def __call__(self, x_t: Tensor, t: float | Tensor, free: Tensor | None = None) -> Any:  # noqa: ANN401
        """Predict x_0; t is one time, or one for each sequence."""
        return super().__call__(x_t, times_like(t, x_t), free)

    @abstractmethod
    def forward(
        self,
        x_t: Int[Tensor, "B L"],
        t: Float[Tensor, " B"],
        free: Bool[Tensor, "B L"] | None = None,
    ) -> Prediction:
        """Predict x_0.

        Args:
            x_t: Noised tokens where it is free, given ones (clean) elsewhere.
            t: Times, float64.
            free: Positions that are generated; the others are given: a prompt at any place, or
                padding. None if all are free.
        """

    def fits(
        self, x_0: Int[Tensor, "B L"], free: Bool[Tensor, "B L"] | None = None
    ) -> Bool[Tensor, "B L"]:
        """Return where data tokens stand that the model may draw, or that may be given."""
        return self.process.kernel.is_data(x_0)

    def check_data(
        self,
        x_0: Int[Tensor, "B L"],
        free: Bool[Tensor, "B L"] | None = None,
        name: str = "x_0",
    ) -> None:
        """Refuse data that are not those of the model.

        Raises:
            TypeError: They are no integers.
            ValueError: They do not have the shape (B, L), or there are others than the tokens of
                the data.
        """
        self.process.kernel.check_tokens(x_0, name)

    def start(self) -> Denoiser:
        """Return the denoiser of one run of a sampler: itself, unless calls of a run share state.

        A network that reads its own last answer, or encodes a prompt once, keeps them there.
        """
        return self

    def rows(self, index: Int[Tensor, " n"]) -> Denoiser:
        """Return the denoiser of some rows of a batch: itself, unless it keeps something a row."""
        return self


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

        Without such a head it is the output, with V entries.
        """
        size, head = self.process.kernel.vocab_size, getattr(self.backbone, "token_head", None)
        if head is None or size <= SMALL:
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
                raise
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


class MeanDenoiser(NetworkDenoiser):
    """Prediction of x_0: the network's logits are leave-one-out posteriors, Bayes does the rest.

    `p(x_0^i | x_t) ~ softmax(logits)[x_0] A_t[x_0, x_t^i]`. The factor is known exactly, so the
    network need not learn how far to trust the token in front of it at every noise level. For the
    absorbing kernel it is constant at masked positions and copies revealed tokens.

    References:
        Simple and effective masked diffusion language models (Sahoo et al., 2024),
        https://arxiv.org/abs/2406.07524, section 3.2.3 (absorbing);
        Structured denoising diffusion models in discrete state-spaces (Austin et al., 2021),
        https://arxiv.org/abs/2107.03006, section 3.3.

    Args:
        backbone: Network (x_t (B, L), t (B,)) -> logits (B, L, V); those of further states, as our
            networks return them, are not read.
        process: The forward process that the denoiser undoes.
        time: What the network is told of the time, see `NetworkDenoiser`.
        pad: Token id of padding, see `NetworkDenoiser`.

    Example:
        >>> import torch
        >>> from ddm import Absorbing, ForwardProcess
        >>> from ddm.backbones import MLP
        >>> from ddm.denoisers import MeanDenoiser
        >>> from ddm.noise import LogLinear
        >>> process = ForwardProcess(Absorbing(4), LogLinear())
        >>> denoiser = MeanDenoiser(MLP(5, length=6), process)
        >>> denoiser(torch.full((2, 6), 4), torch.ones(2)).posterior().shape
        torch.Size([2, 6, 4])
    """

    def forward(
        self,
        x_t: Int[Tensor, "B L"],
        t: Float[Tensor, " B"],
        free: Bool[Tensor, "B L"] | None = None,
    ) -> LogLeaveOneOut:
        """Make one network call."""
        features, head = self.features(x_t, t, free)
        return LogLeaveOneOut(self.process, features, x_t, t, free, head)


class PosteriorDenoiser(NetworkDenoiser):
    """Prediction of x_0 whose logits are full posteriors, the token itself taken into account.

    What a network learns from plain cross-entropy with a kernel that shows noisy tokens (D3PM).
    With the absorbing kernel `MeanDenoiser` serves as well, and copies revealed tokens.

    References:
        Structured denoising diffusion models in discrete state-spaces (Austin et al., 2021),
        https://arxiv.org/abs/2107.03006, section 3.3.

    Args:
        backbone: Network (x_t (B, L), t (B,)) -> logits (B, L, V); those of further states, as our
            networks return them, are not read.
        process: The forward process that the denoiser undoes.
        time: What the network is told of the time, see `NetworkDenoiser`.
        pad: Token id of padding, see `NetworkDenoiser`.

    Example:
        >>> import torch
        >>> from ddm import Absorbing, ForwardProcess
        >>> from ddm.backbones import MLP
        >>> from ddm.denoisers import PosteriorDenoiser
        >>> from ddm.noise import LogLinear
        >>> process = ForwardProcess(Absorbing(4), LogLinear())
        >>> denoiser = PosteriorDenoiser(MLP(5, length=6), process)
        >>> denoiser(torch.full((2, 6), 4), torch.ones(2)).posterior().shape
        torch.Size([2, 6, 4])
    """

    def forward(
        self,
        x_t: Int[Tensor, "B L"],
        t: Float[Tensor, " B"],
        free: Bool[Tensor, "B L"] | None = None,
    ) -> LogPosterior:
        """Make one network call."""
        features, head = self.features(x_t, t, free)
        return LogPosterior(self.process, features, x_t, t, free, head)


class ScoreDenoiser(NetworkDenoiser):
    """Prediction of ratios (SEDD): the network's outputs are log p_t(x_t with v) / p_t(x_t).

    The outputs are shifted by `-log(exp(sigma) - 1)`, the size of the ratios of a masked token,
    where the kernel is absorbing, so that the network need not learn their scale. A posterior of
    x_0, of which the last step draws, is deconvolved from ratios (`Kernel.deconvolve`): with the
    Gaussian kernel and dozens of values they do not tell fine differences, and `MeanDenoiser` is
    the better choice.

    References:
        Discrete diffusion modeling by estimating the ratios of the data distribution (Lou et al.,
        2024), https://arxiv.org/abs/2310.16834, section 5.1 and appendix C.2.

    Args:
        backbone: Network (x_t (B, L), t (B,)) -> log ratios (B, L, K).
        process: The forward process that the denoiser undoes.
        time: What the network is told of the time, see `NetworkDenoiser`.
        pad: Token id of padding, see `NetworkDenoiser`.

    Example:
        >>> import torch
        >>> from ddm import Absorbing, ForwardProcess
        >>> from ddm.backbones import MLP
        >>> from ddm.denoisers import ScoreDenoiser
        >>> from ddm.noise import LogLinear
        >>> process = ForwardProcess(Absorbing(4), LogLinear())
        >>> denoiser = ScoreDenoiser(MLP(5, length=6), process)
        >>> denoiser(torch.full((2, 6), 4), torch.ones(2)).posterior().shape
        torch.Size([2, 6, 4])
    """

    def __init__(
        self,
        backbone: nn.Module,
        process: ForwardProcess,
        *,
        time: TimeInput = Time(),  # noqa: B008 (a value without state)
        pad: int | None = None,
    ) -> None:
        super().__init__(backbone, process, time=time, pad=pad)
        self.time_free = False  # the shift depends on t

    def forward(
        self,
        x_t: Int[Tensor, "B L"],
        t: Float[Tensor, " B"],
        free: Bool[Tensor, "B L"] | None = None,
    ) -> LogRatio:
        """Make one network call."""
        output = self.output(x_t, t, free)
        if self.process.kernel.absorbing:
            sigma = self.process.noise.sigma(t)
            shift = sigma + log1mexp(sigma)  # log(exp(sigma) - 1)
            output = output - shift.to(output.dtype)[:, None, None]
        return LogRatio(self.process, output, x_t, t, free)

    @property
    def output_sizes(self) -> set[int]:
        """One log ratio for every state."""
        return {self.process.kernel.num_states}


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Keep a module in evaluation mode, without dropout; then all its parts are as they were."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


def checked_call(
    denoiser: Denoiser,
    x_t: Int[Tensor, "B L"],
    t: float | Tensor,
    free: Bool[Tensor, "B L"] | None = None,
) -> Prediction:
    """Make one network call and refuse NaN and +inf.

    Raises:
        ValueError: There are such outputs.
    """
    prediction: Prediction = denoiser(x_t, times_like(t, x_t), free)
    wrong = prediction.num_invalid()
    if wrong:
        raise ValueError(
            f"the network must return finite outputs, got {wrong} NaN or infinite values of "
            f"{prediction.output.numel()} at t = {float(prediction.t.mean()):.4g}; lower the "
            "learning rate or check the weights."
        )
    return prediction
