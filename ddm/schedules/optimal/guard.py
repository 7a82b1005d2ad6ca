"""The keep-best guard: a new schedule has to prove itself on sequences that made no choice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from ddm.schedule import SamplingSchedule
from ddm.schedules.optimal.cost_table import CostTable
from ddm.schedules.optimal.distances import CONFIDENCE, t_test
from ddm.schedules.optimal.evidence import Evidence

MOVES = 0.84
"""How sure the guard must be to leave the schedule in use: by the paired error, one deviation.

A wrong move between schedules that cost the same costs nothing, and promises nothing either."""
LEAST_GAIN = 1e-3
"""A smaller share is no gain: schedules found to be uniform are so to a thousandth of a step."""
NEGLIGIBLE = 1e-9
"""A difference of rounding, in weighted nats per sequence."""


@dataclass(frozen=True)
class Decision:
    """What the keep-best guard decided, and how sure it is.

    Attributes:
        winner: Name of the candidate that is kept.
        schedule: Its schedule, with gain, error and confidence among its facts.
        costs: Mean cost of every candidate on the held-out sequences, weighted nats per sequence.
            Not biased, hence below zero by chance where a schedule costs nothing.
        gain: Share of the cost of uniform steps that the winner saves; 0 unless it is a thousandth
            at least, and known with 95 % confidence to be something.
        gain_error: Standard error of a gain that is claimed, else 0.
        confidence: How sure it is that the winner costs less than uniform steps, by the t-test of
            the paired differences; one half if it is uniform steps.
    """

    winner: str
    schedule: SamplingSchedule
    costs: dict[str, float]
    gain: float
    gain_error: float
    confidence: float

    def __str__(self) -> str:
        """Return the gain with its error, or "no gain"."""
        return f"gain {self.gain:.1%} +- {self.gain_error:.1%}" if self.gain else "no gain"


def choose(
    table: CostTable,
    new: SamplingSchedule,
    previous: SamplingSchedule | None = None,
    evidence: Evidence | None = None,
) -> Decision:
    """Keep the schedule in use, at first the new one or uniform steps, unless others are better.

    At first the cheaper one of both is in use, as it may be wrong, but is likelier right: few
    sequences can seldom prove a gain, and what they find is uniform by itself where they see
    nothing but noise. Where uniform steps are not known to cost anything they stay.

    Where samples have compared schedules they decide, as costs may be small by their weights alone:
    the new schedule is kept, or uniform steps if their samples are closer to data. The previous
    schedule, of an older network, drew none.

    Args:
        table: Costs with `held_out` sequences; one that was read from a file has none.
        new: The schedule that was found with them.
        previous: The schedule in use, with the same number of steps.
        evidence: What samples say, see `BySamples`.

    Raises:
        ValueError: The table has no held-out sequences.
    """
    candidates = {} if previous is None else {"previous": previous}
    candidates |= {
        "uniform": SamplingSchedule.uniform(new.num_steps),
        "cosine": SamplingSchedule.cosine(new.num_steps),
        "new": new,
    }
    costs = {name: table.sequence_costs(each.times) for name, each in candidates.items()}
    if evidence is None:
        winner = keep_best(costs, ["uniform", "new"] if previous is None else ["previous"])
    else:
        far = evidence.distances
        winner = "uniform" if far["uniform"] < far[evidence.winner] else "new"
    facts = gain_over(costs["uniform"], costs[winner])
    chosen = replace(candidates[winner], info=candidates[winner].info | facts)
    means = {name: float(cost.mean()) for name, cost in costs.items()}
    return Decision(winner, chosen, means, **facts)


def keep_best(
    costs: Mapping[str, Float[np.ndarray, " B"]],
    in_use: Sequence[str],
    *,
    confidence: float = MOVES,
) -> str:
    """Return the cheapest candidate in use, unless another one is surely cheaper.

    Candidates are compared sequence by sequence, on those that made no choice. The mean of the
    differences has a standard error; a one-sided t-test with it, divided by the number of
    others (Bonferroni), has to exclude that the one in use is as good. Of all challengers that
    pass the cheapest is kept. What is not known, as surely, to cost anything at all, stays, above
    all the first. So noise does not move a schedule, and for independent tokens nothing does.

    Args:
        costs: What candidates cost every sequence, by name.
        in_use: Names of those that need no proof: the schedule in use, or at first the usual one
            and what was found.
        confidence: Chance, at least, that none takes their place where none is better.

    Raises:
        ValueError: No candidate is in use, or `confidence` is not between one half and 1.
    """
    if not in_use:
        raise ValueError("`in_use` must name at least one candidate, got none.")
    if not 0.5 <= confidence < 1:
        raise ValueError(f"`confidence` must be in [0.5, 1), got {confidence}; 0.84 is usual.")
    first = in_use[0]
    if _confidence(costs[first]) >= confidence:  # else nothing can be saved
        for name in in_use:
            if (costs[first] - costs[name]).mean() > NEGLIGIBLE:
                first = name
    winner, challengers = first, [name for name in costs if name not in in_use]
    if _confidence(costs[first]) < confidence:
        challengers = []
    level = 1 - (1 - confidence) / max(len(costs) - 1, 1)
    for name in challengers:
        sure = _confidence(costs[first] - costs[name]) >= level
        if sure and costs[name].mean() < costs[winner].mean():
            winner = name
    return winner


def gain_over(uniform: Float[np.ndarray, " B"], cost: Float[np.ndarray, " B"]) -> dict[str, float]:
    """Return `gain`, `gain_error` and `confidence` of costs, by sequence; see `Decision`."""
    known, gain, error = _confidence(uniform - cost), 0.0, 0.0
    saved = float(1 - cost.mean() / uniform.mean()) if uniform.mean() else 0.0
    if min(known, _confidence(uniform)) >= CONFIDENCE and saved >= LEAST_GAIN:
        gain = saved
        error = _error(cost - (1 - gain) * uniform) / float(uniform.mean())
    return {"gain": gain, "gain_error": error, "confidence": known}


def _confidence(saved: Float[np.ndarray, " B"]) -> float:
    """Return how sure it is that the mean is above 0; costs may be known exactly."""
    mean, error = float(saved.mean()), _error(saved)
    if error < NEGLIGIBLE:
        mean, error = (0.0 if abs(mean) < NEGLIGIBLE else mean), 0.0
    return t_test(mean, error, len(saved))


def _error(values: Float[np.ndarray, " B"]) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values)))
