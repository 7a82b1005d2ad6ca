"""What do exactness and generality cost? Ratios to the bare operations, measured side by side.

Five questions: one sampling step against the bare network call; memory that a step adds at text
size; seconds of a step and of a row of the table there; whether a vocabulary of 262,144 runs in
8 GB; training through Lightning against a hand-written loop. Prints a table and writes
docs/results/core_speed.json.
"""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import get_context
from typing import Any

from ddm.backbones import Transformer
from ddm.datamodules import CountDown
from ddm.denoisers import MeanDenoiser
from ddm.functional import stratified_times, times_like
from ddm.kernels import Absorbing, Gaussian, Kernel, Uniform
from ddm.losses import NELBO
from ddm.module import DiscreteDiffusion
from ddm.noise import LogLinear
from ddm.process import ForwardProcess
from ddm.samplers import Analytic, Step
from ddm.schedule import SamplingSchedule
from ddm.schedules.optimal.step_cost import measure_step_costs, row_costs

import torch
from _report import finish, parse
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from tqdm import tqdm

QUIET = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")


def ratio_of(
    ours: Callable[[], object], bare: Callable[[], object], pairs: int
) -> dict[str, float]:
    """Time two functions in turn and return the median of the paired ratios."""
    ours(), bare()
    ratios, seconds = [], []
    for _ in tqdm(range(pairs), leave=False):
        begin = time.perf_counter()
        bare()
        middle = time.perf_counter()
        ours()
        seconds.append(middle - begin)
        ratios.append((time.perf_counter() - middle) / seconds[-1])
    return summary(ratios) | {"bare_seconds": statistics.median(seconds)}


def summary(ratios: Sequence[float]) -> dict[str, float]:
    """Return median, least and largest ratio."""
    return {"ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}


TARGETS = {
    50_304: {"step_target": 0.25, "row_target": 0.3},
    126_464: {"step_target": 0.5, "row_target": 0.7},
}
"""Seconds outside the network that steps and rows should take at most, by vocabulary."""


def sampling_step(
    kernel: Kernel, pairs: int, batch: int = 64, num_steps: int = 10
) -> dict[str, float]:
    """Time one of N analytic steps against the bare call, L = 256, 4 x 256 Transformer."""
    torch.manual_seed(0)
    network = Transformer(kernel.num_states, dim=256, depth=4, num_heads=4).eval()
    denoiser = MeanDenoiser(network, ForwardProcess(kernel, LogLinear()))
    x = kernel.sample_prior((batch, 256))
    t, s = times_like(0.6, x), times_like(0.6 - 1 / num_steps, x)
    with torch.no_grad():
        return ratio_of(
            lambda: Analytic().step(denoiser, x, Step(t, s)), lambda: network(x, t), pairs
        )


def text_memory(kind: Callable[[int], Kernel]) -> dict[str, float]:
    """Return the memory that one step adds to the float32 logits, V = 50,257, B = 8, L = 1024."""
    with get_context("spawn").Pool(1) as pool:  # the peak of a process never falls
        return pool.apply(_text_memory, (kind,))


def _text_memory(kind: Callable[[int], Kernel]) -> dict[str, float]:
    torch.manual_seed(0)
    kernel = kind(50_257)
    logits = torch.randn(8, 1024, kernel.vocab_size)

    class Given(nn.Module):
        def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
            return logits

    denoiser = MeanDenoiser(Given(), ForwardProcess(kernel, LogLinear()))
    x = kernel.sample_prior((1, 1)).expand(8, 1024)
    t, s = times_like(0.6, x), times_like(0.5, x)
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with torch.no_grad():
        Analytic().step(denoiser, x, Step(t, s))
    seconds, size = time.perf_counter() - begin, logits.numel() * logits.element_size()
    added = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    return {"added_over_logits": added / size, "logits_gib": size / 2**30, "step_seconds": seconds}


def text_seconds(kind: Callable[[int], Kernel], vocab_size: int) -> dict[str, float]:
    """Return seconds of one thread outside the network, B = 4, L = 256: a step and a table's row.

    The step is one of eight; the row has 36 landing times. A whole row is one with all that is
    measured beside it: the search for NaN, and what later steps repair of errors.
    """
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(_text_seconds, (kind, vocab_size))


def _text_seconds(kind: Callable[[int], Kernel], vocab_size: int) -> dict[str, float]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    kernel = kind(vocab_size)
    logits = torch.randn(4, 256, kernel.vocab_size)

    class Given(nn.Module):
        def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
            return logits

    denoiser = MeanDenoiser(Given(), ForwardProcess(kernel, LogLinear()))
    x_0 = torch.randint(vocab_size, (4, 256))
    t, s = times_like(0.625, x_0), times_like(0.5, x_0)
    x_t = denoiser.process.sample(x_0, t)
    below = torch.linspace(0, 0.6, 36, dtype=torch.float64)

    def step() -> None:
        Analytic().step(denoiser, x_t, Step(t, s))

    def row() -> None:
        row_costs(denoiser(x_t, t), x_0, below)

    def whole_row() -> None:
        measure_step_costs(denoiser, x_0, torch.tensor([0.0, 1.0], dtype=torch.float64))

    with torch.no_grad():
        return {
            "step_seconds": cpu_seconds(step),
            "row_seconds": cpu_seconds(row),
            "whole_row_seconds": cpu_seconds(whole_row),
        }


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return the least CPU time of three calls, after one to warm up."""
    work()
    seconds = []
    for _ in range(3):
        begin = time.process_time()
        work()
        seconds.append(time.process_time() - begin)
    return min(seconds)


def memory(kind: Callable[[int], Kernel], vocab_size: int = 262_144) -> dict[str, float]:
    """Return the most memory that a process held after each of three works, B = 1, L = 256.

    Samples of four steps, a table of four times, and a step of AdamW with a 2 x 128 Transformer.
    """
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(_memory, (kind, vocab_size))


def _memory(kind: Callable[[int], Kernel], vocab_size: int) -> dict[str, float]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    kernel = kind(vocab_size)
    network = Transformer(kernel.num_states, dim=128, depth=2, num_heads=2)
    torch.nn.init.normal_(network.out.weight, std=0.02)
    denoiser = MeanDenoiser(network, ForwardProcess(kernel, LogLinear()))
    optimizer = torch.optim.AdamW(denoiser.parameters())
    x_0 = torch.randint(vocab_size, (1, 256))

    def sample() -> None:
        Analytic()(denoiser, kernel.sample_prior((1, 256)), SamplingSchedule.uniform(4))

    def table() -> None:
        measure_step_costs(denoiser, x_0, torch.linspace(0, 1, 5, dtype=torch.float64))

    def train() -> None:
        NELBO()(denoiser, x_0, stratified_times(1)).sum().backward()
        optimizer.step()

    peaks = {}
    for work in (sample, table, train):
        work()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        peaks[f"{work.__name__}_peak_gib"] = peak
    return peaks | {"target_gib": 8e9 / 2**30}


def training(pairs: int, steps: int = 20) -> dict[str, float]:
    """Time training through Lightning against a hand-written loop with the same network and loss.

    Both train the same number of steps on the same batches; the trainer's start-up is left out by
    timing between the first and the last batch.
    """
    kernel, length = Absorbing(28), 64
    data = CountDown(28, length, num_samples=32 * (steps + 2), batch_size=32)
    network = partial(Transformer, dim=128, depth=3, num_heads=4)

    def by_hand() -> float:
        denoiser = MeanDenoiser(network(kernel.num_states), ForwardProcess(kernel, LogLinear()))
        optimizer, loss = torch.optim.AdamW(denoiser.parameters()), NELBO()
        begin = 0.0
        for step, batch in enumerate(data.train_dataloader()):
            begin = time.perf_counter() if step == 1 else begin
            t = stratified_times(32)
            value = loss(denoiser, batch["tokens"], t).mean() / length
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        return time.perf_counter() - begin

    class Clock(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
            if batch_idx == 0:
                self.begin = time.perf_counter()
            self.seconds = time.perf_counter() - self.begin

    def with_lightning() -> float:
        clock = Clock()
        off: dict[str, Any] = dict.fromkeys(QUIET, False)
        trainer = Trainer(accelerator="cpu", max_epochs=1, callbacks=[clock], **off)
        module = DiscreteDiffusion(kernel, network, length=length, optimizer=torch.optim.AdamW)
        trainer.fit(module, data.train_dataloader())
        return clock.seconds

    by_hand(), with_lightning()
    return summary([by_hand() / with_lightning() for _ in tqdm(range(pairs), leave=False)])


def main(args: Sequence[str] | None = None) -> None:
    """Measure and report."""
    pairs = parse(__doc__, args, pairs=(7, "paired repetitions of each timing")).pairs
    results = {}
    for kernel in (Absorbing(28), Uniform(28), Gaussian(28)):
        name = type(kernel).__name__.lower()
        results[f"sampling step over network call, {name}"] = sampling_step(kernel, pairs)
    for kind in (Absorbing, Uniform):
        name = f"sampling step over network call, {kind.__name__.lower()}, V = 50,304, B = 4"
        results[name] = sampling_step(kind(50_304), pairs, batch=4)
        results[f"{name}, one of 32"] = sampling_step(kind(50_304), pairs, 4, num_steps=32)
        results[f"memory of a step over logits, {kind.__name__.lower()}"] = text_memory(kind)
        for size, targets in TARGETS.items():
            name = f"outside the network, {kind.__name__.lower()}, V = {size:,}"
            results[name] = text_seconds(kind, size) | targets
        results[f"memory, {kind.__name__.lower()}, V = 262,144, B = 1"] = memory(kind)
    results["training throughput over hand-written loop"] = training(max(3, pairs // 2))
    for name, values in results.items():
        print(f"{name:55s}", *(f"{key} {value:.3g}" for key, value in values.items()), sep="  ")
    finish("core_speed", {"results": results})


if __name__ == "__main__":
    main()
