"""How little can a sampler lose on enumerated joints, its times and corrector searched together?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, product
from typing import Any

from ddm.files import read_json
from ddm.functional import one_hot, times_like
from ddm.samplers import Analytic, Renoise
from ddm.schedules import SamplingSchedule

import numpy as np
import torch
from _correctors import Gibbs, Psi
from _report import RESULTS
from problems import SMALL_KERNELS, Enumerated, joints, kl, product_law
from scipy.optimize import minimize
from torch import Tensor

JOINTS = {
    "Ising ring, beta = 0.6": ["uniform"],
    "binary chain, flip 0.1": ["uniform"],
    "soft parity, beta = 1.0": ["absorbing", "uniform"],
    "random, V = 3, L = 4, coupling 2.0": list(SMALL_KERNELS),
    "random chain, V = 3, L = 4": list(SMALL_KERNELS),
    "CountDown, V = 3, L = 4, smoothing 0.1": list(SMALL_KERNELS),
}
"""Joints and the kernels to search with: for two tokens the Gaussian kernel is the uniform one, and
six tokens with masks have too many states."""
EVALUATIONS = 80
"""Laws of samples that are computed per start of the search."""

STARTS: dict[str, list[tuple[float, ...]]] = {
    "Analytic": [()],
    "Renoise": [(0.0,), (2.0,)],
    "Psi": [(0.0,), (2.0,)],
    "Gibbs": [(0.0,)],
}
"""Families, and the logits of the parameter that the search starts from."""


def propagate(world: Enumerated, law: Tensor, tokens: Tensor) -> Tensor:
    """Return the law after a step whose tokens are independent given the state, (S,)."""
    half = tokens.shape[1] // 2
    left, right = product_law(tokens[:, :half]), product_law(tokens[:, half:])
    return ((law[:, None] * left).T @ right).flatten()


def corrected(world: Enumerated, law: Tensor, s: float, share: float) -> Tensor:
    """Return the law after every token is drawn anew, given all others, with a probability."""
    p, at_s = world.prediction(s), times_like(s, world.states)
    stay = one_hot(world.states, world.process.kernel.num_states, torch.float64)
    return propagate(world, law, torch.lerp(stay, Gibbs(1).law([p], at_s), share))


def least(world: Enumerated, family: str, num_calls: int, known: Sequence[float]) -> float:
    """Return the least KL( data || samples ) of a family, over its times and its parameter."""

    def value(z: Any, place: int | None = None) -> float:  # noqa: ANN401
        unit = 1 / (1 + np.exp(-np.asarray(z)))
        ratios = unit if family == "Analytic" else unit[:-1]
        times = [*np.cumprod([1.0, *ratios]).tolist(), 0.0]
        free = float(unit[-1])
        samplers = {"Renoise": Renoise(min(free / (1 - free), 1e6) + 1e-6), "Psi": Psi(1 - free)}
        law, sampler = world.start(), samplers.get(family, Analytic())
        for k, (t, s) in enumerate(pairwise(times)):
            rule = sampler.law([world.prediction(t)], times_like(s, world.states))
            law = propagate(world, law, rule)
            if k == place:
                law = corrected(world, law, s, free)
        world.said.clear()
        return kl(world.data, law[world.is_data].clamp(min=1e-300))

    steps = num_calls - (family == "Gibbs")
    if len(known) != steps + 1:
        known = SamplingSchedule.uniform(steps).times
    ratios = np.clip([s / t for t, s in pairwise(known[:-1])], 1e-4, 1 - 1e-4)
    start = np.log(ratios / (1 - ratios))
    places: list[int | None] = [*range(steps - 1)] if family == "Gibbs" else [None]
    found = []
    for place, first in product(places, STARTS[family]):
        z = np.array([*start, *first])
        simplex = np.vstack([z, z + 0.6 * np.eye(len(z))])
        options = {"maxfev": EVALUATIONS, "xatol": 1e-2, "fatol": 1e-5, "initial_simplex": simplex}
        found.append(float(minimize(value, z, (place,), "Nelder-Mead", options=options).fun))
    return min(found)


def on_joint(name: str, kernel: str, num_calls: int = 4) -> dict[str, float]:
    """Return the least divergence of every family in nats, its times and parameter searched."""
    joint, best = joints()[name][1], read_json(RESULTS / "regret.json")["best"]
    world, found = Enumerated(SMALL_KERNELS[kernel](joint.shape[0]), joint), {}
    for family in STARTS:
        steps = num_calls - (family == "Gibbs")
        found[family] = least(world, family, num_calls, best.get(f"{name}|{kernel}|{steps}", []))
    # What is searched contains the analytic sampler, but for corrections with a call of their own.
    return {k: v if k == "Gibbs" else min(v, found["Analytic"]) for k, v in found.items()}
