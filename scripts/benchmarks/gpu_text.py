"""What does text cost on a GPU? Steps, rows of a table and training at the size of SEDD-small.

12 x 768, V = 50,304, L = 1,024 in bfloat16, compiled and not, masks and uniform kernel: a sampling
step over the bare call at N = 8, 32 and 128, a row of a table over the call, training tokens per
second over a hand-written loop with all logits, share of the card's peak, and memory. Prints every
measurement as it comes and keeps it: an interrupted run goes on. `make results-gpu` runs it.
Writes docs/results/gpu_text.json.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ddm.backbones import Transformer
from ddm.denoisers import MeanDenoiser
from ddm.functional import stratified_times, times_like
from ddm.kernels import Absorbing, Kernel, Uniform
from ddm.losses import NELBO, CrossEntropy, Loss
from ddm.noise import LogLinear
from ddm.process import ForwardProcess
from ddm.samplers import Analytic, Step
from ddm.schedules.optimal.step_cost import row_costs

import torch
import torch.nn.functional as F
from _report import finish, parse, resume
from torch import Tensor

KERNELS: dict[str, Callable[[int], Kernel]] = {"absorbing": Absorbing, "uniform": Uniform}
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Operations per second of dense bfloat16 products, as their maker states them."""


def denoiser_of(kernel: str, compiled: bool, options: argparse.Namespace) -> MeanDenoiser:
    """Return the denoiser of a network with random weights, time-free with masks."""
    torch.manual_seed(0)
    chain = KERNELS[kernel](options.vocab_size)
    network = Transformer(
        chain.num_states,
        dim=options.dim,
        depth=options.depth,
        num_heads=max(1, options.dim // 64),
        time_conditioning=kernel == "uniform",
    )
    torch.nn.init.normal_(network.out.weight, std=0.02)
    if compiled:
        network.compile()
    return MeanDenoiser(network, ForwardProcess(chain, LogLinear())).to(options.device)


def seconds(work: Callable[[], object], options: argparse.Namespace) -> dict[str, float]:
    """Return the median time of a call, after two to warm up, and the most memory that it held."""
    cuda, times = torch.device(options.device).type == "cuda", []
    for number in range(options.repeats + 2):
        if cuda:
            torch.cuda.synchronize()
            if number == 2:
                torch.cuda.reset_peak_memory_stats()
        begin = time.perf_counter()
        with torch.autocast(options.device, torch.bfloat16):
            work()
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    memory = {"peak_gib": torch.cuda.max_memory_allocated() / 2**30} if cuda else {}
    return {"seconds": statistics.median(times[2:])} | memory


def sampling(kernel: str, compiled: bool, options: argparse.Namespace) -> dict[str, Any]:
    """Time a step at t = 1/2 for several N, and a row of a table of 36 times, over the call."""
    denoiser = denoiser_of(kernel, compiled, options).eval()
    x_0 = torch.randint(options.vocab_size, (options.batch_size, options.length))
    x_0 = x_0.to(options.device)
    t = times_like(0.5, x_0)
    x_t = denoiser.process.sample(x_0, t)
    below = torch.linspace(0, 0.49, 36, dtype=torch.float64, device=x_0.device)

    def row() -> None:
        row_costs(denoiser(x_t, t), x_0, below)

    with torch.no_grad():
        bare = seconds(lambda: denoiser.backbone(x_t, t.float()), options)
        found = {"call": bare, "row": seconds(row, options)}
        for n in (8, 32, 128):
            work = partial(Analytic().step, denoiser, x_t, Step(t, t - 1 / n))
            found[f"step, N = {n}"] = seconds(work, options)
    for name, measured in found.items():
        measured["over_call"] = measured["seconds"] / bare["seconds"]
        say(f"{kernel}, compiled {compiled}, {name}", measured)
    return found


def training(kernel: str, compiled: bool, options: argparse.Namespace) -> dict[str, Any]:
    """Time steps of training with NELBO against a loop by hand: cross-entropy of all logits."""
    denoiser = denoiser_of(kernel, compiled, options).train()
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=1e-4)
    x_0 = torch.randint(options.vocab_size, (options.batch_size, options.length))
    x_0 = x_0.to(options.device)

    def update(nats: Tensor) -> None:
        (nats / x_0.numel()).backward()
        optimizer.step()
        optimizer.zero_grad()

    def ours(loss: Loss) -> None:
        update(loss(denoiser, x_0, stratified_times(len(x_0), device=x_0.device)).sum())

    def by_hand() -> None:
        t = torch.rand(len(x_0), device=x_0.device)
        moved = torch.rand(x_0.shape, device=x_0.device) < t[:, None]
        noise = (
            options.vocab_size
            if kernel == "absorbing"
            else torch.randint_like(x_0, options.vocab_size)
        )
        logits = denoiser.backbone(torch.where(moved, noise, x_0), t)
        nats = F.cross_entropy(logits.transpose(1, 2), x_0, reduction="none")
        update((nats * moved / t[:, None]).sum())

    found = {
        "by hand": seconds(by_hand, options),
        "NELBO": seconds(partial(ours, NELBO()), options),
        "cross-entropy": seconds(partial(ours, CrossEntropy()), options),
    }
    # As usual: 6 operations per weight and token, and 12 per pair of tokens, feature and layer.
    network: Any = denoiser.backbone
    weights = sum(p.numel() for p in network.parameters()) - network.embedding.weight.numel()
    work = 6 * weights + 12 * options.depth * options.dim * options.length
    card = torch.cuda.get_device_name() if options.device == "cuda" else ""
    for case, measured in found.items():
        rate = x_0.numel() / measured["seconds"]
        measured["tokens_per_second"] = rate
        measured["over_by_hand"] = found["by hand"]["seconds"] / measured["seconds"]
        for name, peak in PEAKS.items():
            if name in card:
                measured["share_of_peak"] = rate * work / peak
        say(f"{kernel}, compiled {compiled}, training, {case}", measured)
    return found


def say(name: str, measured: dict[str, float]) -> None:
    """Print a measurement at once."""
    numbers = (f"{key} {value:.3g}" for key, value in measured.items())
    print(f"{name:50s}", *numbers, sep="  ", flush=True)


def main(args: Sequence[str] | None = None) -> None:
    """Measure and report."""
    options = parse(
        __doc__,
        args,
        dim=(768, "features per token"),
        depth=(12, "blocks"),
        vocab_size=(50_304, "tokens of the vocabulary"),
        length=(1024, "tokens of a sequence"),
        batch_size=(16, "sequences"),
        repeats=(7, "timed repetitions"),
        device=("cuda", "device"),
    )
    # What says most comes first: a run of two minutes is worth its time.
    cases = {
        f"{kernel}, compiled {compiled}, {work.__name__}": partial(work, kernel, compiled, options)
        for compiled in (False, True)
        for kernel in KERNELS
        for work in (sampling, training)
    }
    results = resume("gpu_text", vars(options), cases)
    finish("gpu_text", {"options": vars(options), "results": results}, seed=0)


if __name__ == "__main__":
    main()
