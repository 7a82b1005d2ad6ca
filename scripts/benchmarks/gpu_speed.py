"""What do sampling and schedules cost on a GPU, at the size of text? `make results-gpu` runs it.

A Transformer with random weights and the vocabulary of GPT-2 (V = 50,257): one analytic step
against the bare network call, the memory that it adds to the logits, and the cost table, for masks
and for the uniform kernel. Prints a table and writes docs/results/gpu_speed.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from ddm import Absorbing, ForwardProcess, Kernel, OptimalSteps, Uniform
from ddm.backbones import Transformer
from ddm.denoisers import MeanDenoiser, times_like
from ddm.noise import LogLinear
from ddm.samplers import Analytic

import torch
from _report import save
from core_speed import ratio_of
from schedule_speed import Timed


def clock() -> float:
    """Return the time at which the GPU is done."""
    torch.cuda.synchronize()
    return time.perf_counter()


def done(call: Callable[[], object]) -> Callable[[], None]:
    """Return the call, which then waits for the GPU."""

    def called() -> None:
        call()
        torch.cuda.synchronize()

    return called


def measure(kernel: Kernel, options: argparse.Namespace) -> dict[str, float]:
    """Return ratios, seconds and memory with one kernel."""
    torch.manual_seed(0)
    network = Transformer(kernel.num_states, dim=options.dim, depth=options.depth, num_heads=12)
    process = ForwardProcess(kernel, LogLinear())
    denoiser = MeanDenoiser(network, process).to("cuda").eval()
    x = kernel.sample_prior((options.batch_size, options.length), device=torch.device("cuda"))
    t, s = times_like(0.6, x), times_like(0.5, x)
    x_0 = torch.randint(kernel.vocab_size, (options.num_sequences, options.length), device="cuda")
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):

        def peak(call: Callable[[], object]) -> int:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            call()
            return torch.cuda.max_memory_allocated()

        found = ratio_of(
            done(lambda: Analytic().step(denoiser, x, t, s)), done(lambda: network(x, t)), 9
        )
        logits = x.numel() * kernel.vocab_size * 2  # bytes, bfloat16
        step, bare = peak(lambda: Analytic().step(denoiser, x, t, s)), peak(lambda: network(x, t))
        found |= {"logits_gib": logits / 2**30, "added_over_logits": (step - bare) / logits}
        timed = Timed(denoiser, clock)
        begin = clock()
        table_peak = peak(
            lambda: OptimalSteps(batch_size=options.batch_size).table(timed, Analytic(), x_0)
        )
        seconds = clock() - begin
    found |= {"table_seconds": seconds, "table_algebra_over_network": seconds / timed.seconds - 1}
    return found | {"table_peak_gib": table_peak / 2**30}


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    add = parser.add_argument
    add("--dim", type=int, default=768)
    add("--depth", type=int, default=12)
    add("--vocab-size", type=int, default=50_257)
    add("--length", type=int, default=1024)
    add("--batch-size", type=int, default=8)
    add("--num-sequences", type=int, default=8, help="for the cost table")
    options = parser.parse_args()
    results = {}
    for kind in (Absorbing, Uniform):
        values = measure(kind(options.vocab_size), options)
        results[kind.__name__.lower()] = values
        print(kind.__name__, *(f"{key} {value:.3g}" for key, value in values.items()), sep="  ")
    save("gpu_speed", {"settings": vars(options), "results": results}, seed=0)


if __name__ == "__main__":
    main()
