"""Everything that calls a network runs where the network is: on every device of the machine."""

from copy import deepcopy
from functools import partial

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger

import exact
from cases import each_factorized, each_kernel
from ddm.backbones import Transformer
from ddm.callbacks import JYSScheduleCallback, SampleLogger
from ddm.datamodules import CountDown
from ddm.denoisers import ExactDenoiser
from ddm.functional import categorical
from ddm.kernels import Gaussian
from ddm.module import DiscreteDiffusion
from ddm.noise import LogLinear
from ddm.process import ForwardProcess
from ddm.samplers import Analytic
from ddm.schedules import JumpYourSteps, OptimalSteps, SamplingSchedule

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
each_device = pytest.mark.parametrize("device", DEVICES)
L = 2


def exact_denoiser(kernel, device):
    """Return the exact denoiser of a random law of two tokens, on the device."""
    process = ForwardProcess(deepcopy(kernel), LogLinear())
    return ExactDenoiser(process, exact.random_joint(kernel.vocab_size, L)).to(device)


def seeded(device):
    """Return a seeded source of noise on the device."""
    return torch.Generator(device).manual_seed(0)


@each_device
@each_kernel
@each_factorized
def test_samples_follow_the_enumerated_law(kernel, sampler, device):
    """Samples drawn on the device follow the law that the CPU enumerates."""
    times = SamplingSchedule.uniform(2).times
    law = exact.sample_law(sampler, exact_denoiser(kernel, "cpu"), times, L)
    denoiser = exact_denoiser(kernel, device)
    x = denoiser.process.kernel.sample_prior((8192, L), seeded(device), device)
    tokens = sampler(denoiser, x, times, generator=torch.Generator(device).manual_seed(1)).tokens
    assert tokens.device.type == device
    index = exact.index_of(tokens.cpu(), kernel.vocab_size)
    exact.assert_frequencies(exact.frequencies(index, len(law)), law)


@each_device
@each_kernel
def test_schedules(kernel, device):
    """Both optimizers measure on the device, and the same seed finds the same schedules."""
    denoiser = exact_denoiser(kernel, device)
    x_0 = denoiser.sequences[categorical(denoiser.log_joint.exp().expand(64, -1), seeded(device))]
    for optimizer in (OptimalSteps(num_times=8, pilot_times=6), JumpYourSteps()):
        found, again = (
            optimizer(denoiser, Analytic(), x_0, [2, 4], generator=seeded(device)).schedules
            for _ in range(2)
        )
        assert found == again
        assert [s.num_steps for s in found.values()] == [2, 4]


@each_device
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training(precision, device, tmp_path):
    """Training on the device updates schedules, and samples are drawn and measured there."""
    data = CountDown(4, 8, num_samples=64, num_val=16, batch_size=32)
    network = partial(Transformer, dim=16, depth=1, num_heads=2)
    optimizer = partial(torch.optim.Adam, lr=1e-3)
    module = DiscreteDiffusion(Gaussian(4), network, length=8, optimizer=optimizer)
    callback = JYSScheduleCallback(
        (3,), optimizer=OptimalSteps(num_times=8, pilot_times=6), num_samples=32
    )
    averages = EMAWeightAveraging(decay=0.9, use_buffers=False)
    Trainer(
        max_epochs=2,
        accelerator=device,
        devices=1,
        precision=precision,
        callbacks=[averages, callback, SampleLogger(num_samples=16, num_steps=(3,))],
        logger=TensorBoardLogger(tmp_path),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, data)
    assert [entry["step"] for entry in callback.history] == [1, 2, 4]
    tokens = module.to(device).sample(16, callback.schedule(3), generator=seeded(device)).tokens
    assert tokens.device.type == device
