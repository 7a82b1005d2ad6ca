"""What the schedule callback asks of somebody else's module, and how it leaves no trace there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from ddm.averaging import averages
from ddm.denoisers import Denoiser, checked_call, evaluating
from ddm.samplers import Sampler


def denoiser_of(module: LightningModule) -> Denoiser:
    """Return the attribute `denoiser` of a module.

    Raises:
        ValueError: There is none.
    """
    found = getattr(module, "denoiser", None)
    if not isinstance(found, Denoiser):
        raise ValueError(
            f"`denoiser` must say how to get a `ddm.denoisers.Denoiser` out of "
            f"`{type(module).__name__}`, which has no attribute of that name; pass "
            "`denoiser=lambda module: MeanDenoiser(module.network, process)`."
        )
    return found


@contextmanager
def undisturbed(trainer: Trainer, module: LightningModule) -> Iterator[None]:
    """Use averaged weights in eval mode and in the trainer's precision; leave no trace."""
    averaging = averages(trainer, begun=True)
    precision = trainer.precision_plugin
    with isolate_rng(), torch.no_grad(), precision.val_step_context(), evaluating(module):
        for callback in averaging:  # swaps the weights
            callback.on_validation_epoch_start(trainer, module)
        try:
            yield
        finally:
            for callback in averaging:  # swaps them back
                callback.on_validation_epoch_end(trainer, module)


def probe(denoiser: Denoiser, sampler: Sampler, tokens: Tensor, free: Tensor | None) -> None:
    """Refuse denoiser, sampler and tokens that do not fit; costs a call and a step of four rows.

    Raises:
        TypeError: Tokens or free positions have the wrong type.
        ValueError: Tokens are out of range, the network returns another shape than logits or
            values that are not finite, or the sampler does not fit the kernel.
    """
    x_0 = tokens[:4]
    if free is not None and (free.dtype != torch.bool or free.shape != tokens.shape):
        raise ValueError(
            f"`free` must be boolean with the shape of the tokens, {tuple(tokens.shape)}, got "
            f"{free.dtype} with {tuple(free.shape)}; say how to get it out of a batch."
        )
    denoiser.check_data(tokens, free, "tokens")
    free = None if free is None else free[:4]
    process = denoiser.process
    generator = torch.Generator(x_0.device).manual_seed(0)
    x_t = process.sample(x_0, 0.5, generator, free=free)
    checked_call(denoiser, x_t, 0.5, free)
    noise = process.sample_prior(x_0, free, generator)
    # One step, not a sample: some samplers make a call for every token.
    times = torch.tensor([1.0, 0.0], dtype=torch.float64, device=x_0.device)
    everywhere = torch.ones_like(x_0, dtype=torch.bool)
    steps = sampler.steps(process, times, everywhere if free is None else free, generator)
    sampler.step(denoiser, noise, steps[0], generator, free=free)
