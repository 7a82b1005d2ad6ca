"""How much is there to win? The best schedule for a metric, sought by the metric itself.

No method: it needs the metric and thousands of samples for one model and N. Where even such a
schedule hardly beats uniform steps (digits with the uniform kernel, N = 4), no objective can.
Nelder-Mead from uniform steps, on the mean over some seeds of the noise; what it finds is compared
with uniform steps on other seeds, paired. Writes docs/results/best_for_metric.json.
"""

from __future__ import annotations

from collections.abc import Sequence

from ddm import SamplingSchedule
from ddm.checkpoint import load_data, load_model
from ddm.datamodules import SequenceDataModule
from ddm.evaluation import interval, measure

import numpy as np
from _report import ROOT, finish, parse, show
from scipy.optimize import minimize
from tqdm import tqdm

MODEL, METRIC = "digits_uniform", "frechet_pca32"


def times_of(logs: Sequence[float] | np.ndarray) -> tuple[float, ...]:
    """Return times from 1 to 0 whose steps have these log lengths, up to a constant; the last 0."""
    lengths = np.exp([*logs, 0.0])
    inner = 1 - lengths.cumsum()[:-1] / lengths.sum()
    return (1.0, *inner.tolist(), 0.0)


def main(args: Sequence[str] | None = None) -> None:
    """Search, compare and print."""
    options = parse(
        __doc__,
        args,
        num_steps=(4, "number of steps"),
        num_samples=(512, "samples per seed"),
        seeds=(3, "seeds of the search"),
        new_seeds=(10, "seeds of the comparison"),
        most=(36, "schedules that are tried"),
    )
    checkpoint = ROOT / "checkpoints" / f"{MODEL}.ckpt"
    module, data = load_model(checkpoint), load_data(checkpoint)
    assert isinstance(data, SequenceDataModule)
    data.prepare_data()
    data.setup("test")

    def errors(times: Sequence[float], seeds: Sequence[int]) -> list[float]:
        schedule = SamplingSchedule(tuple(times))
        return [
            measure(module, data, schedule, options.num_samples, seed, batch_size=128)[METRIC]
            for seed in seeds
        ]

    with tqdm(total=options.most, desc="schedules") as bar:

        def cost(logs: Sequence[float]) -> float:
            bar.update()
            return float(np.mean(errors(times_of(logs), range(options.seeds))))

        start = np.zeros(options.num_steps - 1)
        simplex = np.vstack([start, start + 0.5 * np.eye(len(start))])
        settings = {"initial_simplex": simplex, "maxfev": options.most}
        found = minimize(cost, start, method="Nelder-Mead", options=settings)
    times = times_of(found.x)
    new = range(options.seeds, options.seeds + options.new_seeds)
    sought, uniform = (errors(x, new) for x in (times, times_of(start)))
    table = {
        "uniform": interval(uniform),
        "sought": interval(sought),
        "sought - uniform": interval(np.subtract(sought, uniform).tolist()),
    }
    print("times:", *(f"{t:.3f}" for t in times))
    show(f"{MODEL}, {METRIC}", {name: {"mean": value} for name, value in table.items()})
    results = {"times": list(times), "table": table, "settings": vars(options)}
    finish("best_for_metric", results, seed=options.seeds)


if __name__ == "__main__":
    main()
