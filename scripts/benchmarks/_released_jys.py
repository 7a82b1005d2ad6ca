"""Jump Your Steps with the behavior of its released code, as a baseline.

The defects are reproduced on purpose and are numbered; `ddm.schedules.JumpYourSteps` has none of
them.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from ddm.denoisers import Denoiser
from ddm.functional import times_like
from ddm.schedules import SamplingSchedule

import torch
from jaxtyping import Int
from torch import Tensor

GRID = 1024
MARGIN = 1e-2
TINY = 1e-8


@torch.no_grad()
def released_jys(
    denoiser: Denoiser,
    x_0: Int[Tensor, "B L"],
    num_steps: int,
    generator: torch.Generator | None = None,
    *,
    num_probes: int = 20,
) -> SamplingSchedule:
    """Return the schedule that the released method finds, for a power of two of steps.

    Costs `2 num_probes (num_steps - 1)` network calls on all sequences, nearly.

    Raises:
        ValueError: The number of steps is not a power of two.
    """
    if num_steps < 1 or num_steps & (num_steps - 1):
        raise ValueError(f"`num_steps` must be a power of two, got {num_steps}.")
    times = [1.0, 0.0]
    while len(times) <= num_steps:
        found = []
        for t, s in pairwise(times):
            seed = int(torch.randint(2**31, (), generator=generator))

            def gain(m: float, t: float = t, s: float = s, seed: int = seed) -> float:
                return released_gain(denoiser, x_0, (t, m, s), seed)

            found += [t, _search(gain, s, t, num_probes)]
        times = _snap([*found, 0.0])
    return SamplingSchedule(tuple(times), "released-jump-your-steps")


def released_gain(
    denoiser: Denoiser, x_0: Int[Tensor, "B L"], points: tuple[float, float, float], seed: int
) -> float:
    """Return the released objective for t > m > s, in what it takes for nats per sequence.

    Defect 1: no compensator, and rates contain the clock: `log(t / m)` per masked token.
    Defect 2: the rates out of x_m and x_t are compared entry by entry although the states differ.
    Defect 3: x_m and x_t are drawn with the same seed instead of along one path.
    """
    t, m, s = points
    m = min(max(m, TINY), 1.0)  # an inverted bracket (defect 4) may leave [0, 1]
    rates = []
    for time in (m, t):
        noise = torch.Generator(x_0.device).manual_seed(seed)
        at = times_like(time, x_0)
        rates.append(denoiser(denoiser.process.sample(x_0, at, noise), at).reverse_rate())
    rate_m, rate_t = rates
    nats = rate_m * ((rate_m + TINY).log() - (rate_t + TINY).log())
    return (m - s) * float(nats.sum((-1, -2)).mean())


def _search(gain: Callable[[float], float], s: float, t: float, num_probes: int) -> float:
    """Search by golden sections, as released.

    Defect 4: the margin is absolute, so that it inverts brackets shorter than 0.02; a better probe
    does not shrink the bracket; an end of the bracket may be the result.
    """
    a, b = s + MARGIN, t - MARGIN
    golden = (5**0.5 - 1) / 2
    value, best = max((gain(x), x) for x in (a, b))
    for _ in range((num_probes - 2) // 2):
        left, right = b - golden * (b - a), a + golden * (b - a)
        probe = max((gain(left), left), (gain(right), right))
        if probe[0] > value:
            value, best = probe
        elif probe[1] == left:
            b = right
        else:
            a = left
    return best


def _snap(times: list[float]) -> list[float]:
    """Round to a grid and force gaps.

    Defect 5: points of earlier rounds are moved too.
    """
    cells = [round(GRID * t) for t in times]
    for k in range(1, len(cells) - 1):
        cells[k] = min(cells[k], cells[k - 1] - 1)
    for k in range(len(cells) - 2, 0, -1):
        cells[k] = max(cells[k], cells[k + 1] + 1)
    return [cell / GRID for cell in cells]
