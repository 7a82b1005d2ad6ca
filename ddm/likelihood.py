"""The likelihood of data under a sampler with its schedule: what tells samplers apart."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddm.denoisers import Denoiser
from ddm.process import keep_given
from ddm.samplers import Sampler
from ddm.samplers.sampler import check_free
from ddm.schedule import Schedule, times_of


@torch.no_grad()
def sampler_nats(
    denoiser: Denoiser,
    sampler: Sampler,
    x_0: Int[Tensor, "B L"],
    schedule: Schedule,
    *,
    free: Bool[Tensor, "B L"] | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " B"]:
    r"""Return `-log p_sampler(x_0)`, or a bound on it, by teacher forcing: one call per step.

    Where x_0 determines the path of the sampler, as with `Reveal` in an order without chance, the
    result is exact: the sum over calls of `-log p(x_0^i | revealed)` at the positions revealed.
    In random order it is an unbiased estimate of a bound, for the path is one of many. Otherwise
    it is an unbiased estimate of the N-step bound

        `KL( q(x_1 | x_0) || prior ) + sum_k E KL( q(x_s | x_t, x_0) || Q(x_s | x_t) )`

    with Q the law of the sampler's step: what a schedule costs, comparable across numbers of steps,
    orders and kernels. It sees every token: divided by `L log 2` it is bits per token.

    Args:
        denoiser: The model.
        sampler: The sampler; one with a single network call per step.
        x_0: Data tokens.
        schedule: A schedule, or its decreasing times from 1 to 0.
        free: Positions that are generated; the likelihood is that of these given the others.
        generator: Source of chance in the path, on the device of x_0.

    Returns:
        Nats per sequence, float64; infinite if the sampler never draws the sequence.

    Raises:
        TypeError: Tokens are no integers, or the mask is not boolean.
        ValueError: Schedule, tokens, mask, kernel or sampler do not fit.
    """
    times, process = times_of(schedule).to(x_0.device), denoiser.process
    process.kernel.check_tokens(x_0, "x_0")
    check_free(free, x_0, process)
    everywhere = torch.ones_like(x_0, dtype=torch.bool) if free is None else free
    if process.kernel.absorbing:  # which starts from masks alone, see `Absorbing.prior_divergence`
        x = process.sample_prior(x_0, free, generator)
    else:
        x = keep_given(process.sample(x_0, times[0], generator), x_0, free)
    nats = process.prior_divergence(x_0).where(everywhere, 0.0).sum(-1)
    for step in sampler.steps(process, times, everywhere, generator):
        x, cost = sampler.teach(denoiser, x, x_0, step, generator, free=free)
        nats = nats + cost
        if not sampler.landing(process, x, step, everywhere).any():
            break
    return nats
