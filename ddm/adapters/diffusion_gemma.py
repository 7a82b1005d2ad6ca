"""DiffusionGemma: a canvas under the uniform kernel, and a prompt that is encoded once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ddm.adapters.adapter import Adapter
from ddm.adapters.memory import Memory, prompt_width
from ddm.denoisers import Denoiser, LogPosterior, Prediction
from ddm.kernels import Uniform
from ddm.noise import LogLinear, NoiseSchedule
from ddm.process import ForwardProcess


class DiffusionGemma(Adapter):
    """A `DiffusionGemmaForBlockDiffusion` of transformers: the uniform kernel, no time input.

    The columns before the first free one of any row are the prompt, padded on the left, and go to
    the encoder; the others are the canvas. In one run of a sampler (`start`) the prompt is encoded
    once, and every call is told the logits of the call before (self-conditioning). Called directly,
    as tables of costs and losses do, the network is told no logits. One that has been trained with
    logits of the same canvas, and not of a noisier one, is misled by those that a run carries.

    Trained by plain cross-entropy, its logits are full posteriors. It finds out the noise level
    from the canvas, and cannot tell little noise from none: below `floor` its answer counts as
    given at that time, and Bayes does the rest. Read literally, it would expect the same few wrong
    tokens at every small time anew, and tables of costs would contradict themselves.

    Args:
        model: The network.
        floor: The smallest time that the network tells from 0.
        noise: Noise schedule; the network does not know it. By default `LogLinear()`.
    """

    aligned = True

    def __init__(
        self, model: nn.Module, *, floor: float = 0.05, noise: NoiseSchedule | None = None
    ) -> None:
        config: Any = model.config
        text = config.text_config
        process = ForwardProcess(Uniform(text.vocab_size), noise or LogLinear())
        super().__init__(model, process, pad=text.pad_token_id)
        self.max_length = text.max_position_embeddings
        self.floor = floor
        self.memory: Memory | None = None

    def start(self) -> Denoiser:
        """Return the denoiser of one run, which remembers the prompt and the last logits."""
        return self._with(Memory())

    def rows(self, index: Int[Tensor, " n"]) -> Denoiser:
        """Return the denoiser of some rows of the batch of a run."""
        return self if self.memory is None else self._with(self.memory.rows(index))

    def call(
        self, x_t: Int[Tensor, "B L"], t: Float[Tensor, " B"], free: Bool[Tensor, "B L"] | None
    ) -> Float[Tensor, "B L V"]:
        """Encode the prompt, if that is not done, and call the decoder on the canvas.

        Raises:
            ValueError: There is no prompt.
        """
        memory, width = self.memory or Memory(), prompt_width(free)
        if width == 0:
            raise ValueError(
                "`free` must leave the first column given, got no prompt to encode; let texts "
                "begin with the token that the model expects there."
            )
        exists = self.attention(x_t, free).get("attention_mask")
        if memory.cache is None:
            model: Any = self.backbone.model
            prompt = None if exists is None else exists[:, :width]
            memory.cache = model.encoder(input_ids=x_t[:, :width], attention_mask=prompt).cache
        logits = self.backbone(
            decoder_input_ids=x_t[:, width:],
            decoder_attention_mask=exists,
            cache=memory.cache,
            self_conditioning_logits=memory.logits,
        ).logits
        output = torch.nn.functional.pad(logits, (0, 0, width, 0))  # nobody reads the prompt's
        memory.remember(output[:, width:])
        return output

    def predict(
        self,
        features: Float[Tensor, "B L D"],
        x_t: Int[Tensor, "B L"],
        t: Float[Tensor, " B"],
        free: Bool[Tensor, "B L"] | None,
        head: Callable[[Tensor], Tensor] | None = None,
    ) -> Prediction:
        """Return what an output says."""
        return FlooredPosterior(self.process, features, x_t, t, free, head, floor=self.floor)

    def token_head(self) -> None:
        """Return nothing: the next call is told the logits of this one."""

    def num_evaluated(self, x_t: Int[Tensor, "B L"], free: Bool[Tensor, "B L"] | None) -> int:
        """Return the tokens that a call evaluates: a prompt that is remembered is none of them."""
        known = self.memory is not None and self.memory.cache is not None
        return x_t[:, prompt_width(free) if known else 0 :].numel()

    def _with(self, memory: Memory) -> DiffusionGemma:
        """Return this denoiser, on the same network, with a memory of its own."""
        run = copy.copy(self)
        run.memory = memory
        return run


@dataclass(frozen=True)
class FlooredPosterior(LogPosterior):
    """Log full posteriors of a network that does not know the time.

    Attributes:
        floor: Below this time, they count as given at this time.
    """

    floor: float = 0.0

    def log_leave_one_out(self) -> Float[Tensor, "B L V"]:
        """Return the output divided by the likelihood of the token itself."""
        return self.process.leave_one_out(self.output, self.x_t, self.t.clamp(min=self.floor))

    def log_posterior(self) -> Float[Tensor, "B L V"]:
        """Return log p(x_0^i | x_t), normalized; from the floor on, the output."""
        return self.process.full_posterior(self.log_leave_one_out(), self.x_t, self.t)
