"""The theta-trapezoidal sampler."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real

import torch
from jaxtyping import Float
from torch import Tensor

from ddm.denoisers import Prediction
from ddm.functional import require_instance
from ddm.samplers.euler import finish, stay_or_jump
from ddm.samplers.sampler import Sampler


class ThetaTrapezoidal(Sampler):
    r"""Second-order steps in two network calls: leap to a point inside the step, then extrapolate.

    Stage 1 leaps for `theta (t - s)` with the rates at (x_t, t), to x_m at time m. Stage 2 leaps
    for the rest with `[a_1 R_m(x_m) - a_2 R_t(x_t)]_+`, where `a_1 = 1 / (2 theta (1 - theta))` and
    `a_2 = a_1 - 1`. A token that moved in stage 1 has left the state that R_t(x_t) belongs to, so
    only `a_1 R_m` drives it; by symmetry this changes nothing up to second order. A leap makes at
    most one jump per token, with probability `1 - exp(-total)`. The order is 2 as long as no
    extrapolated rate has to be cut off at zero, that is while a step changes no rate by
    more than the factor `a_2 / a_1` (1/2 for theta = 1/2).

    References:
        Fast solvers for discrete diffusion models: theory and applications of high-order
        algorithms (Ren et al., 2025), https://arxiv.org/abs/2502.00234, algorithm 2.

    Args:
        theta: Where inside the step stage 1 lands, in (0, 1).

    Example:
        >>> from ddm import ForwardProcess, SamplingSchedule, Uniform
        >>> from ddm.datamodules import countdown_chain
        >>> from ddm.denoisers import MarkovChainDenoiser
        >>> from ddm.noise import LogLinear
        >>> from ddm.samplers import ThetaTrapezoidal
        >>> process = ForwardProcess(Uniform(8), LogLinear())
        >>> denoiser = MarkovChainDenoiser(process, *countdown_chain(8, 0.01))
        >>> x_1 = process.kernel.sample_prior((2, 6))
        >>> samples = ThetaTrapezoidal()(denoiser, x_1, SamplingSchedule.uniform(4))
        >>> samples.tokens.shape, samples.num_calls
        (torch.Size([2, 6]), 7)
    """

    order: float = 2

    def __init__(self, theta: float = 0.5) -> None:
        require_instance(Real, remedy="0.5 is usual", theta=theta)
        if not 0 < theta < 1:
            raise ValueError(
                f"`theta` must lie strictly between 0 and 1, got {theta}; 0.5 needs the weakest "
                "extrapolation."
            )
        self.theta = theta

    def stages(self, t: Float[Tensor, " B"], s: Float[Tensor, " B"]) -> list[Float[Tensor, " B"]]:
        """Return the inner time and s; at s = 0 one stage, drawn from the posterior."""
        return [s] if bool((s == 0).all()) else [t + self.theta * (s - t), s]

    def law(
        self, predictions: Sequence[Prediction], s: Float[Tensor, " B"]
    ) -> Float[Tensor, "B L K"]:
        """Return the law of the leap of stage 1 or 2; the posterior at s = 0."""
        p = predictions[-1]
        rate = p.reverse_rate()
        if len(predictions) == 2:
            first = predictions[0]
            a_1 = 0.5 / (self.theta * (1 - self.theta))
            moved = (p.x_t != first.x_t)[..., None]
            before = torch.where(moved, 0.0, first.reverse_rate())
            rate = (a_1 * rate - (a_1 - 1) * before).clamp(min=0.0)
        mean = rate * (p.t - s)[:, None, None]
        total = mean.sum(-1, keepdim=True)
        some = torch.where(total > 0, -torch.expm1(-total) / total, 1.0)
        return finish(p, s, stay_or_jump(p, mean * some))

    def num_evals(self, num_steps: int, length: int) -> int:
        """Return two calls per step and one for the last."""
        return 2 * num_steps - 1
