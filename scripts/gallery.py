"""Draw the pictures of README and manual from the shipped models: `python scripts/gallery.py`."""

from __future__ import annotations

from pathlib import Path

import ddm
from ddm.arrivals import last_changes, pianoroll_arrivals
from ddm.checkpoint import load_data, load_model
from ddm.commands.shipped import find_checkpoint
from ddm.datamodules import SequenceDataModule, countdown_chain, sample_chain
from ddm.denoisers import MarkovChainDenoiser
from ddm.files import replacing
from ddm.noise import Cosine, Geometric, LogLinear
from ddm.orders import Random, Spaced
from ddm.pictures import pixels, together
from ddm.samplers import Analytic, Reveal, Trajectory
from ddm.schedules.beside import schedules_of

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "samples"
SCALE = [60, 62, 64, 65, 67, 69, 71, 72, 72, 71, 69, 67, 65, 64, 62, 60]
VOCAB, LENGTH = 16, 48


def states_of(name: str, num: int, calls: int, prompt: Tensor | None = None) -> Trajectory:
    """Return the states of samples of a shipped model, with its own schedule."""
    path = find_checkpoint(name)
    model, found = load_model(path), schedules_of(path)
    assert found is not None
    tokens = free = None
    if prompt is not None:
        tokens = torch.nn.functional.pad(prompt, (0, model.length - len(prompt))).expand(num, -1)
        free = (torch.arange(model.length) >= len(prompt)).expand(num, -1)
    schedule = found.schedule(calls)
    assert schedule is not None
    trajectory = Trajectory(num)
    generator = torch.Generator().manual_seed(1)
    model.sample(
        num, schedule, tokens=tokens, free=free, generator=generator, on_state=trajectory.record
    )
    return trajectory


def data_of(name: str) -> SequenceDataModule:
    """Return the data module of a shipped model."""
    data = load_data(find_checkpoint(name))
    assert isinstance(data, SequenceDataModule)
    return data


def gallery() -> np.ndarray:
    """Return digits, text and a tune, with the calls that set their tokens."""
    digits, text = data_of("digits"), data_of("pydoc")
    drawn = states_of("digits", 25, 16)
    times, states = drawn.thin(8)
    written = states_of("pydoc", 3, 32).thin(99)[1]
    played = states_of("folk", 2, 32, torch.tensor(SCALE).repeat_interleave(2)).thin(99)[1]
    rows = [
        {
            "Gaussian kernel, 16 network calls": digits.samples_figure(states[-1]),
            "five of them, from noise to data": digits.trajectory_figure(
                times[:, :5], states[:, :5]
            ),
        },
        {"Masks, 32 calls: colors say which call wrote what": text.arrival_figure(written)},
        {"Uniform kernel, 32 calls: tunes that go on from a scale": pianoroll_arrivals(played)},
    ]
    parts = [together(row) for row in rows]
    width = max(part.shape[1] for part in parts)
    wide = [
        np.pad(part, ((0, 0), (0, width - part.shape[1]), (0, 0)), constant_values=255)
        for part in parts
    ]
    return np.concatenate(wide)


def concepts() -> Figure:
    """Return kernels, noise, schedules and orders, one panel each."""
    figure = Figure(figsize=(11, 5.4), layout="constrained")
    (above, below) = figure.subplots(2, 3)
    chain = countdown_chain(VOCAB)
    x_0 = sample_chain(*chain, 128, LENGTH, torch.Generator().manual_seed(0))
    kernels = (ddm.Absorbing(VOCAB), ddm.Uniform(VOCAB), ddm.Gaussian(VOCAB))
    for axes, kernel in zip(above, kernels, strict=True):
        noised(axes, ddm.ForwardProcess(kernel, LogLinear()), x_0[:1])
    t = torch.linspace(0, 1, 101).double()
    for noise in (LogLinear(), Cosine(), Geometric()):
        below[0].plot(t, -torch.expm1(-noise.sigma(t)), label=type(noise).__name__)
    below[0].set(title="noise: fraction of tokens that have jumped", xlabel="t")
    below[0].legend(frameon=False)
    denoiser = MarkovChainDenoiser(ddm.ForwardProcess(kernels[0], LogLinear()), *chain)
    best = ddm.OptimalSteps().table(denoiser, Analytic(), x_0).schedule(8)
    uniform = ddm.SamplingSchedule.uniform(8)
    for height, schedule in ((1, uniform), (0, best)):
        below[1].plot(schedule.times, [height] * 9, "o-")
    below[1].set(title="schedule: the times of 8 steps", xlabel="t", ylim=(-1, 2))
    below[1].set_yticks([1, 0], labels=["uniform", "optimal"])
    maps = []
    for order in (Random(), Spaced(jitter=0.0)):
        trajectory = Trajectory(1)
        x_1 = kernels[0].sample_prior((1, LENGTH))
        generator = torch.Generator().manual_seed(0)
        Reveal(order)(denoiser, x_1, uniform, generator=generator, on_state=trajectory.record)
        maps.append(last_changes(trajectory.thin(99)[1])[0])
    below[2].imshow(torch.stack(maps), aspect="auto", interpolation="nearest", cmap="turbo")
    below[2].set(title="order: the call that reveals a token", xlabel="position")
    below[2].set_yticks([0, 1], labels=["Random", "Spaced"])
    for axes in figure.axes:
        axes.title.set_fontsize(10)
    return figure


def noised(axes: Axes, process: ddm.ForwardProcess, x: Tensor) -> None:
    """Draw one sequence while it is noised, t = 0 above."""
    rows, before = [], torch.tensor(0.0).double()
    generator = torch.Generator().manual_seed(0)
    for t in torch.linspace(0, 1, 33).double():
        level = process.noise.sigma(t)
        x = process.kernel.sample(x, level - before, generator)
        rows.append(x[0])
        before = level
    colors = matplotlib.colormaps["viridis"].with_extremes(over="0.85")
    axes.imshow(
        torch.stack(rows), aspect="auto", cmap=colors, vmax=VOCAB - 1, extent=(0, LENGTH, 1, 0)
    )
    axes.set(title=f"kernel: {type(process.kernel).__name__}", ylabel="t", xticks=[])


def save(picture: np.ndarray, name: str, width: int = 1000) -> None:
    """Write a picture of a given width with 128 colors."""
    image = Image.fromarray(picture)
    image = image.resize(
        (width, round(image.height * width / image.width)), Image.Resampling.LANCZOS
    )
    with replacing(FOLDER / name) as unfinished:
        image.quantize(128).save(unfinished, format="png", optimize=True)
    print("written:", FOLDER / name)


def main() -> None:
    """Draw all."""
    save(pixels(concepts()), "concepts.png")
    save(gallery(), "gallery.png")


if __name__ == "__main__":
    main()
