"""What does a schedule cost to find? Network calls, algebra against network, shortest path.

The network is a 4 x 256 Transformer at L = 256; its time and the time of everything else are
measured in the same run. Large vocabularies look at some tokens only for what repairs errors; how
much that moves the weights is asked of the shipped text model, whose vocabulary is small. Prints
a table and writes docs/results/schedule_speed.json.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping, Sequence
from functools import partial
from unittest.mock import patch

from ddm import Absorbing, ForwardProcess, Gaussian, Kernel, OptimalSteps, Uniform
from ddm.backbones import Transformer
from ddm.checkpoint import load_data, load_model
from ddm.denoisers import MeanDenoiser
from ddm.noise import LogLinear
from ddm.samplers import Analytic, CallCounter
from ddm.schedules import JumpYourSteps, measure_step_costs, shortest_paths
from ddm.schedules.optimal import retention

import numpy as np
import torch
from _report import ROOT, Timed, finish, parse
from torch import Tensor, nn


class Blind(nn.Module):
    """Logits that cost nothing, for counting calls and measuring memory."""

    time_free = False

    def __init__(self, num_states: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(num_states))

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the same logits everywhere."""
        return self.logits.expand(*x_t.shape, -1)


def denoiser_of(kernel: Kernel, network: nn.Module | None = None) -> MeanDenoiser:
    """Return the denoiser of a network, which is blind by default."""
    network = Blind(kernel.num_states) if network is None else network
    return MeanDenoiser(network, ForwardProcess(kernel, LogLinear()))


def algebra_share(kernel: Kernel, num_times: int) -> dict[str, float]:
    """Return the time of the table's algebra over that of the network, B = 16, L = 256, V = 32."""
    torch.manual_seed(0)
    network = Transformer(kernel.num_states, dim=256, depth=4, num_heads=4).eval()
    denoiser = Timed(denoiser_of(kernel, network))
    x_0 = torch.randint(kernel.vocab_size, (16, 256))
    times = torch.linspace(0, 1, num_times + 1, dtype=torch.float64)
    begin = time.perf_counter()
    measure_step_costs(denoiser, x_0, times, progress=True)
    total = time.perf_counter() - begin
    return {"algebra_over_network": total / denoiser.seconds - 1, "network": denoiser.seconds}


def path_seconds(size: int = 512, max_steps: int = 256) -> dict[str, float]:
    """Return the time of all shortest paths on a large grid."""
    t = np.linspace(0, 1, size + 1)
    cost = np.tril(np.subtract.outer(t, t) ** 2, -1)
    begin = time.perf_counter()
    shortest_paths(cost, max_steps)
    return {"seconds": time.perf_counter() - begin}


def calls() -> dict[str, float]:
    """Return the network calls for all N up to 64, and those of Jump Your Steps."""
    found = {}
    x_0 = torch.randint(4, (8, 64))
    for name, optimizer, n in (
        ("optimal, all N", OptimalSteps(), 64),
        ("JYS, N = 16", JumpYourSteps(), 16),
        ("JYS, N = 64", JumpYourSteps(), 64),
    ):
        counter = CallCounter(denoiser_of(Absorbing(4)))
        optimizer(counter, Analytic(), x_0, [n], generator=torch.Generator().manual_seed(0))
        found[name] = float(counter.num_calls)
    return found


def large(kernel: Kernel, batch: int, length: int) -> dict[str, float]:
    """Return the peak memory of a small table with many states."""
    x_0 = torch.randint(kernel.vocab_size, (batch, length))
    begin = time.perf_counter()
    measure_step_costs(denoiser_of(kernel), x_0, torch.linspace(0, 1, 5, dtype=torch.float64))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    logits = batch * length * kernel.num_states * 4 / 2**30
    return {"peak_gib": peak, "logits_gib": logits, "seconds": time.perf_counter() - begin}


def sampled_retention(strides: Sequence[int] = (13, 31)) -> dict[str, float]:
    """Return by how much weights r^.5 change where one of so many tokens is looked at.

    The strides are those of V = 50,304 and 126,464; 64 sequences of `pydoc_uniform`.
    """
    checkpoint = ROOT / "checkpoints" / "pydoc_uniform.ckpt"
    denoiser, data = load_model(checkpoint).denoiser, load_data(checkpoint)
    assert data is not None
    data.prepare_data()
    data.setup("fit")
    batch: Mapping[str, Tensor] = next(iter(data.train_dataloader()))
    times = torch.linspace(0, 1, 37, dtype=torch.float64)

    def found(stride: int) -> Tensor:
        with patch.object(retention, "LARGE", -(-denoiser.process.kernel.num_states // stride)):
            generator = torch.Generator().manual_seed(0)
            costs = measure_step_costs(denoiser, batch["tokens"][:64], times, generator=generator)
        return retention.retention(costs.errors)

    whole = found(1)
    return {
        f"one_of_{stride}": float((found(stride) / whole).sqrt().sub(1).abs().max())
        for stride in strides
    }


def main(args: Sequence[str] | None = None) -> None:
    """Measure and report."""
    options = parse(__doc__, args, num_times=(72, "times of the table's grid"))
    share = partial(algebra_share, num_times=options.num_times)
    results = {
        "shortest paths, M = 512, all N up to 256": path_seconds(),
        "network calls": calls(),
        "algebra over network, absorbing": share(Absorbing(32)),
        "algebra over network, uniform": share(Uniform(32)),
        "algebra over network, Gaussian": share(Gaussian(32)),
        "Gaussian table, V = 256, 8 images of 3,072 tokens": large(Gaussian(256), 8, 3072),
        "uniform table, V = 50,257, 2 sequences of 256": large(Uniform(50_257), 2, 256),
        "absorbing table, V = 50,257, 8 sequences of 1,024": large(Absorbing(50_257), 8, 1024),
        "largest change of a weight, one token of so many": sampled_retention(),
    }
    for name, values in results.items():
        print(f"{name:52s}", *(f"{key} {value:.3g}" for key, value in values.items()), sep="  ")
    finish("schedule_speed", {"results": results}, seed=0)


if __name__ == "__main__":
    main()
