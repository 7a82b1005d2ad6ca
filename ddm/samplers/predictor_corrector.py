"""The predictor-corrector sampler."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ddm.denoisers import Prediction
from ddm.functional import require_at_least, require_instance, require_number
from ddm.samplers.analytic import Analytic
from ddm.samplers.euler import stay_or_jump
from ddm.samplers.reveal_sampler import RevealSampler
from ddm.samplers.sampler import Sampler


class PredictorCorrector(Sampler):
    r"""A predictor step to s, then corrector steps that leave the law at s unchanged.

    A corrector step runs the chain with the rates of the reverse plus those of the forward
    process, whose stationary law is that of x_s, for the duration `step_size (t - s)`. It
    repairs tokens that were drawn independently of each other.

    References:
        A continuous time framework for discrete denoising models (Campbell et al., 2022),
        https://arxiv.org/abs/2205.14987, section 4.4, proposition 4.

    Args:
        predictor: Any factorized sampler with one stage per step.
        num_corrections: Corrector steps after every step but the last; one network call each.
        step_size: Duration of a corrector step relative to the step it follows.

    Raises:
        ValueError: The predictor is of another kind, or a number is out of range.

    Example:
        >>> from ddm import ForwardProcess, SamplingSchedule, Uniform
        >>> from ddm.datamodules import countdown_chain
        >>> from ddm.denoisers import MarkovChainDenoiser
        >>> from ddm.noise import LogLinear
        >>> from ddm.samplers import Analytic, PredictorCorrector
        >>> process = ForwardProcess(Uniform(8), LogLinear())
        >>> denoiser = MarkovChainDenoiser(process, *countdown_chain(8, 0.01))
        >>> x_1 = process.kernel.sample_prior((2, 6))
        >>> samples = PredictorCorrector(Analytic())(denoiser, x_1, SamplingSchedule.uniform(4))
        >>> samples.tokens.shape, samples.num_calls
        (torch.Size([2, 6]), 7)
    """

    def __init__(
        self,
        predictor: Sampler | None = None,
        *,
        num_corrections: int = 1,
        step_size: float = 1.0,
    ) -> None:
        require_instance(Sampler | None, predictor=predictor)
        require_at_least(1, num_corrections=num_corrections)
        if isinstance(step_size, (int, float)) and step_size <= 0:
            raise ValueError(f"`step_size` must be positive, got {step_size}.")
        require_number("step_size", step_size, 1e-6, 1e6, "1 is a correction as long as its step")
        self.predictor = predictor or Analytic()
        if isinstance(predictor, RevealSampler) or not self.predictor.single_stage:
            raise ValueError(
                "`predictor` must be a sampler whose step is one factorized stage, got "
                f"`{type(predictor).__name__}`; use `Analytic`."
            )
        self.num_corrections = num_corrections
        self.step_size = step_size

    def stages(self, t: Float[Tensor, " B"], s: Float[Tensor, " B"]) -> list[Float[Tensor, " B"]]:
        """Return s once for the predictor and once for every correction, none at s = 0."""
        return [s] if bool((s == 0).all()) else [s] * (1 + self.num_corrections)

    def law(
        self, predictions: Sequence[Prediction], s: Float[Tensor, " B"]
    ) -> Float[Tensor, "B L K"]:
        """Return the predictor's law at the first stage, the corrector's at the others."""
        if len(predictions) == 1:
            return self.predictor.law(predictions, s)
        p = predictions[-1]
        duration = self.step_size * (predictions[0].t - s)
        rate = p.reverse_rate() + p.process.jump_rate_from(p.x_t, s)
        mean = rate * duration[:, None, None]
        total = mean.sum(-1, keepdim=True)
        # At most one jump, with the probability that the frozen chain has made any.
        some = torch.where(total > 0, -torch.expm1(-total) / total, 1.0)
        return stay_or_jump(p, mean * some)

    def num_evals(self, num_steps: int, length: int) -> int:
        """Return N predictor calls and `num_corrections` calls after every step but the last."""
        return num_steps + (num_steps - 1) * self.num_corrections
