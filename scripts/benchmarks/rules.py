"""The rules by which others unmask tokens, on denoisers of this project: quality and diversity.

Quality is the share of adjacent pairs that break the CountDown rule, diversity the entropy of
single tokens over all samples, and cost the mean number of sequences evaluated per sample. Rules
that sharpen raise the one and lower the other, so frontiers over the temperature are compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ddm.denoisers import Denoiser
from ddm.functional import categorical
from ddm.metrics import CountDownError
from ddm.orders import Confidence, Entropy, Measured, Random, Spaced, measure_dependence
from ddm.orders.order import masked_in, ranked
from ddm.samplers import EntropyBound, Reveal, Sampler, Step, Temper, Threshold
from ddm.schedules import OptimalCounts, SamplingSchedule

import torch
from matplotlib.figure import Figure
from torch import Tensor

NUM_STEPS = 8
TEMPERATURES = (0.6, 0.8, 1.0)
Cell = dict[str, float]


class Drawn(Reveal):
    """Draw all masked tokens and keep the most probable draws: the rule of LLaDA and MaskGIT.

    Which tokens are kept depends on their values, so likely values are kept more often: even with
    one token per call samples do not have the law of the model. With `noise` g the rank is that of
    `log p + g (1 - k / N) Gumbel`, as in MaskGIT.

    References:
        Large language diffusion models (Nie et al., 2025), https://arxiv.org/abs/2502.09992,
        algorithm 5; MaskGIT (Chang et al., 2022), https://arxiv.org/abs/2202.04200, section 3.2.
    """

    def __init__(self, noise: float = 0.0, *, temper: Temper | None = None) -> None:
        super().__init__(temper=temper)
        self.noise = noise

    def step(
        self,
        denoiser: Denoiser,
        x_t: Tensor,
        step: Step,
        generator: torch.Generator | None = None,
        *,
        free: Tensor | None = None,
    ) -> Tensor:
        """Draw everywhere, keep the first ones."""
        assert step.num is not None
        said = denoiser(x_t, self.time(denoiser.process, x_t, step, free), free).double()
        law = self.law([said], torch.zeros_like(step.t))
        drawn = categorical(law, generator)
        score = -law.gather(-1, drawn[..., None]).squeeze(-1).log()
        u = torch.rand(score.shape, generator=generator, dtype=score.dtype).clamp(min=1e-300)
        score = score + self.noise * step.s[:, None] * (-u.log()).log()
        masked = masked_in(said)
        keep = (ranked(score, masked) < step.num[:, None]) & masked
        return torch.where(keep, drawn, x_t)


def judged(
    denoiser: Denoiser, sampler: Sampler, schedule: SamplingSchedule, x: Tensor, seed: int
) -> Cell:
    """Return mean calls, broken pairs and entropy of samples."""
    generator = torch.Generator().manual_seed(seed)
    samples = sampler(denoiser, x, schedule, generator=generator)
    metric = CountDownError(denoiser.process.kernel.vocab_size)
    metric.update(samples.tokens)
    shares = samples.tokens.flatten().bincount().double() / samples.tokens.numel()
    return {
        "calls": samples.num_rows / len(x),
        "broken": float(metric.compute()),
        "entropy": float(torch.special.entr(shares).sum()),
    }


def compare(denoiser: Denoiser, x_0: Tensor, num_samples: int, seed: int) -> dict[str, Cell]:
    """Return what the rules do at temperature 1, with about 8 calls, or as they are published."""
    uniform, cosine = SamplingSchedule.uniform(NUM_STEPS), SamplingSchedule.cosine(NUM_STEPS)
    x = denoiser.process.sample_prior(x_0[:1].expand(num_samples, -1))
    generator = torch.Generator().manual_seed(seed)
    measured = Measured(measure_dependence(denoiser, x_0, 8, generator=generator))
    rules: dict[str, tuple[Sampler, SamplingSchedule]] = {
        "random, uniform": (Reveal(), uniform),
        "random, cosine": (Reveal(), cosine),
        "LLaDA: drawn token, uniform": (Drawn(), uniform),
        "MaskGIT: drawn token + Gumbel, cosine": (Drawn(4.5), cosine),
        "Dream: entropy, uniform": (Reveal(Entropy()), uniform),
        "EB: entropy, bound .1": (Reveal(Entropy(), stop=EntropyBound(0.1)), uniform),
        "EB: entropy, bound 2": (Reveal(Entropy(), stop=EntropyBound(2.0)), uniform),
        "Fast-dLLM: confidence, threshold .9": (Reveal(Confidence(), stop=Threshold()), uniform),
    }
    for name, order in {"random": Random(), "spaced": Spaced(), "measured": measured}.items():
        rules[f"{name}, entropy bound 4"] = Reveal(order, stop=EntropyBound(4.0)), uniform
        counts = OptimalCounts(num_times=32)
        found = counts(denoiser, Reveal(order), x_0, NUM_STEPS, generator=generator).schedules
        rules[f"{name}, optimal counts"] = Reveal(order), found[NUM_STEPS]
        rules[f"{name}, optimal counts, entropy .1 along"] = (
            Reveal(order, near_certain=0.1),
            found[NUM_STEPS],
        )
    return {name: judged(denoiser, *rule, x, seed) for name, rule in rules.items()}


def frontier(denoiser: Denoiser, x_0: Tensor, num_samples: int, seed: int) -> dict[str, list[Cell]]:
    """Return cells by rule along the temperatures, at 8 calls."""
    x = denoiser.process.sample_prior(x_0[:1].expand(num_samples, -1))
    generator = torch.Generator().manual_seed(seed)
    schedules = {"uniform": SamplingSchedule.uniform(NUM_STEPS)}
    for name, order in (("random", Random()), ("spaced", Spaced())):
        found = OptimalCounts(num_times=32)(
            denoiser, Reveal(order), x_0, NUM_STEPS, generator=generator
        )
        schedules[name] = found.schedules[NUM_STEPS]

    def rules(temper: Temper) -> dict[str, tuple[Sampler, SamplingSchedule]]:
        return {
            "random, uniform": (Reveal(temper=temper), schedules["uniform"]),
            "random, optimal": (Reveal(temper=temper), schedules["random"]),
            "spaced, optimal": (Reveal(Spaced(), temper=temper), schedules["spaced"]),
            "confidence, uniform": (Reveal(Confidence(), temper=temper), schedules["uniform"]),
            "LLaDA": (Drawn(temper=temper), schedules["uniform"]),
        }

    cells: dict[str, list[Cell]] = {}
    for temperature in TEMPERATURES:
        for name, rule in rules(Temper(temperature)).items():
            cells.setdefault(name, []).append(judged(denoiser, *rule, x, seed))
    return cells


def average(found: Sequence[Any]) -> Any:  # noqa: ANN401
    """Return the mean over seeds of numbers in nested mappings and lists."""
    first = found[0]
    if isinstance(first, Mapping):
        return {key: average([one[key] for one in found]) for key in first}
    if isinstance(first, list):
        return [average(column) for column in zip(*found, strict=True)]
    return sum(found) / len(found)


def draw(frontiers: Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]]) -> Figure:
    """Draw broken pairs against entropy, a line over temperatures for every rule."""
    figure = Figure(figsize=(4.2 * len(frontiers), 3.8), layout="constrained")
    axes = figure.subplots(1, len(frontiers), squeeze=False)[0]
    for panel, (title, curves) in zip(axes, frontiers.items(), strict=True):
        for name, cells in curves.items():
            x, y = [cell["entropy"] for cell in cells], [cell["broken"] for cell in cells]
            (line,) = panel.plot(x, y, ".-", label=name)
            panel.plot(x[-1], y[-1], "o", color=line.get_color())
        panel.set(title=title, xlabel="entropy of tokens, nats", ylabel="broken pairs")
        panel.set_yscale("symlog", linthresh=1e-2)
        panel.spines[["top", "right"]].set_visible(False)
    axes[-1].legend(frameon=False, fontsize=7, loc="lower left")
    return figure
