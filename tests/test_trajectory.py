"""Samples on their way from noise to data: what is recorded, and the pictures of it."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from cases import each_legal_pair
from ddm.arrivals import image_arrivals, last_changes, pianoroll_arrivals
from ddm.datamodules import CountDown, Images, Text
from ddm.denoisers import ExactDenoiser
from ddm.noise import LogLinear
from ddm.pictures import (
    pianoroll_trajectory_figure,
    text_figure,
    together,
    trajectory_figure,
    used_pitches,
)
from ddm.process import ForwardProcess
from ddm.samplers import Trajectory
from exact import random_joint

TIMES = torch.tensor([[1.0, 1.0], [0.25, 0.75], [0.0, 0.0]])


@each_legal_pair
def test_every_state_is_recorded(kernel, sampler):
    """From the clamped prior to the samples, at falling times; watching changes no sample."""
    denoiser = ExactDenoiser(ForwardProcess(kernel, LogLinear()), random_joint(3, 3))
    x = kernel.sample_prior((4, 3), torch.Generator().manual_seed(0))
    free = torch.tensor([False, True, True]).expand(4, -1)
    x = torch.where(free, x, 1)
    times = (1.0, 0.5, 0.0)
    runs = []
    trajectory = Trajectory(2)
    for on_state in (None, trajectory.record):
        generator = torch.Generator().manual_seed(1)
        run = sampler(
            denoiser,
            x,
            times,
            free=free,
            generator=generator,
            on_state=on_state,
        )
        runs.append(run.tokens)
    assert torch.equal(*runs)
    seen, states = trajectory.thin(99)
    steps = sampler.steps(denoiser.process, torch.tensor(times).double(), free)
    assert len(states) == len(steps) + 1
    assert torch.equal(states[0], x[:2])
    assert torch.equal(states[-1], runs[0][:2])
    assert (seen.diff(dim=0) <= 0).all()
    assert (seen[-1] == 0).all()


@pytest.mark.parametrize(
    ("num", "kept"), [(2, [0, 10]), (3, [0, 5, 10]), (11, [*range(11)]), (20, [*range(11)])]
)
def test_thin_keeps_the_ends(num, kept):
    """The first state, the last one, and evenly spread ones between them, as they were."""
    trajectory = Trajectory(1)
    x_t = torch.zeros(3, 2).long()
    for k in range(11):
        trajectory.record(x_t.fill_(k), torch.full((3,), 1 - k / 10))
    times, states = trajectory.thin(num)
    assert states.shape == (len(kept), 1, 2)
    assert states[:, 0, 0].tolist() == kept
    torch.testing.assert_close(times[:, 0], 1 - torch.tensor(kept) / 10)


def test_trajectory_errors():
    """Errors name the argument, the rule, the value and the remedy."""
    with pytest.raises(ValueError, match="`num_samples` must be at least 0, got -1; raise it"):
        Trajectory(-1)
    with pytest.raises(ValueError, match="`record` must be called before"):
        Trajectory(1).thin()


def test_masks_are_no_color_of_tokens():
    """In the heat map every token has a color of its own, and the mask another one: gray."""
    states = torch.arange(5).expand(3, 2, -1)
    figure = trajectory_figure(TIMES, states, vocab_size=4)
    panels = [axes for axes in figure.axes if axes.get_ylabel() != "token"]
    assert [label.get_text() for label in panels[1].get_yticklabels()] == [
        *("t = 1.00", "t = 0.75", "t = 0.00"),
    ]
    image = panels[0].images[0]
    colors = image.to_rgba(image.get_array())[0, :, :3]
    assert len(np.unique(colors, axis=0)) == 5
    assert np.allclose(colors[4], 0.8)


def test_text_shows_the_mask_sign(tmp_path):
    """A line per state, blank lines between samples; masks and line breaks have a sign each."""
    (tmp_path / "text.txt").write_text("ab\n" * 40)
    data = Text(str(tmp_path / "text.txt"), length=4, val_fraction=0.2)
    a, b, end = data.encode("ab\n").tolist()
    mask = data.vocab_size
    states = torch.tensor([[[mask] * 4, [mask, a, b, end]], [[a, b, end, mask], [b, a, b, end]]])
    assert data.trajectory_text(TIMES[:2], states) == (
        "t = 1.000  ����\nt = 0.250  ab↵�\n\nt = 1.000  �ab↵\nt = 0.750  bab↵"
    )
    (shown,) = data.trajectory_figure(TIMES[:2], states).texts
    assert shown.get_text().splitlines()[1] == "t = 0.250  ab↵░"


def test_text_pictures_cut_lines_and_show_dollars():
    """Long lines go on below, empty ones stay, and nothing is taken for a formula."""
    (shown,) = text_figure("$a_1$ costs\n\nnothing", width=5).texts
    assert shown.get_text().splitlines() == ["$a_1$", " cost", "s", "", "nothi", "ng"]
    assert not shown.get_parse_math()


@pytest.mark.parametrize("colors", [1, 3])
def test_strips_are_the_images(colors, tmp_path):
    """Every cell of a strip is the image itself, pixel by pixel, with masks in magenta."""
    from PIL import Image

    size = (2, 3) if colors == 1 else (2, 3, 3)
    for k in range(5):
        Image.fromarray(np.full(size, 50 * k, np.uint8)).save(tmp_path / f"{k}.png")
    data = Images(str(tmp_path), batch_size=1, val_fraction=0.2)
    generator = torch.Generator().manual_seed(0)
    states = torch.randint(257, (3, 2, data.length), generator=generator)
    states[0, 0, :4] = 256
    figure = data.trajectory_figure(TIMES, states)
    assert data.trajectory_text(TIMES, states) == ""
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        *("t = 1.00", "t = 0.50", "t = 0.00"),  # the mean over samples
    ]
    picture = np.asarray(axes.images[0].get_array())
    assert picture.shape == (2 * 3, 3 * 4, 3)
    for t in range(3):
        for sample in range(2):
            cell = picture[3 * sample :, 4 * t :][:2, :3]
            image = data.to_images(states[t, sample][None])[0].expand(3, -1, -1)
            masked = (states[t, sample].view(colors, 2, 3) == 256).any(0)
            for y, x in np.ndindex(2, 3):
                expected = [200, 0, 200] if masked[y, x] else image[:, y, x].tolist()
                assert cell[y, x].tolist() == expected


def test_pianorolls_of_states():
    """Pitches have the color of their voice, rests are white, and masks shade their sixteenth."""
    rest, mask = 128, 129
    states = torch.tensor([[[mask, mask, mask, rest]], [[60, 50, rest, rest]], [[60, 50, 127, 0]]])
    figure = pianoroll_trajectory_figure(TIMES[:, :1], states, voices=2, prompt_length=1)
    roll = np.asarray(figure.axes[0].images[0].get_array()).reshape(3, 128, 2, 3)
    assert np.allclose(roll[0, :, 0], 0.6)
    assert np.allclose(roll[0, :, 1], 0.8)
    for state in (1, 2):
        assert np.allclose(roll[state, 127 - 60, 0], to_rgb("C0"))
        assert np.allclose(roll[state, 127 - 50, 0], to_rgb("C1"))
    assert np.allclose(roll[1, :, 1], 1)
    assert np.allclose(roll[2, 0, 1], to_rgb("C0"))
    assert np.allclose(roll[2, 127, 1], to_rgb("C1"))
    assert (roll[2] != 1).any(-1).sum() == 4


def test_pianorolls_show_the_pitches_in_use():
    """The range of the last states with a margin of two, whatever noise has used before."""
    states = torch.tensor([[[0, 127]], [[60, 72]]])
    figure = pianoroll_trajectory_figure(TIMES[:2, :1], states)
    roll = np.asarray(figure.axes[0].images[0].get_array()).reshape(2, -1, 2, 3)
    assert roll.shape[1] == 72 + 3 - (60 - 2)
    assert (roll[0] == 1).all()
    assert np.allclose(roll[1, 2, 1], to_rgb("C0"))
    assert used_pitches(np.array([128, 129])) == (58, 63)


def test_last_changes():
    """The step after which a token stays; 0 for tokens that were there from the start."""
    states = torch.tensor([[[9, 9, 1]], [[9, 2, 1]], [[3, 2, 1]], [[4, 2, 1]]])
    assert last_changes(states).tolist() == [[3, 1, 0]]
    assert last_changes(states[:1]).tolist() == [[0, 0, 0]]


def test_arrivals_have_a_color_per_step(tmp_path):
    """Numbers, letters, pixels and notes are drawn with the colors of their steps."""
    (tmp_path / "text.txt").write_text("ab\n" * 40)
    text = Text(str(tmp_path / "text.txt"), length=4, val_fraction=0.2)
    a, b, end = text.encode("ab\n").tolist()
    mask = text.vocab_size
    states = torch.tensor([[[mask] * 4], [[mask, a, mask, end]], [[b, a, a, end]]])
    figure = text.arrival_figure(states)
    letters, bar = figure.axes
    assert [line.get_text() for line in letters.texts] == ["baa↵"]
    assert letters.images[0].get_array().tolist() == [[2, 1, 2, 1]]
    assert bar.get_xlabel().startswith("step that set the token")
    (axes, _) = CountDown(4, 4).arrival_figure(states).axes
    assert axes.images[0].get_array().tolist() == [[2, 1, 2, 1]]
    shown = image_arrivals(states, torch.zeros(1, 1, 2, 2, dtype=torch.uint8)).axes
    assert shown[1].images[0].get_array().tolist() == [[2, 1], [2, 1]]
    music = torch.tensor([[[129, 129]], [[129, 60]], [[62, 60]]])
    (lines,) = pianoroll_arrivals(music).axes[0].collections
    assert len({tuple(color) for color in lines.get_colors()}) == 2


@pytest.mark.parametrize(("width", "shape"), [(1, (225, 200, 3)), (5, (350, 500, 3))])
def test_pictures_stand_together(width, shape):
    """Side by side, or one below the other where they are wide; each under its title."""
    figures = {name: Figure(figsize=(width, high)) for name, high in (("a", 1), ("b", 2))}
    picture = together(figures)
    assert picture.shape == shape
    assert (picture[:25, :50] < 128).any()  # the first title
    if width == 1:
        assert (picture[125:, :100] == 255).all()


def test_numbers_of_countdown():
    """By default, states are shown by what `decode` makes of them."""
    data = CountDown(4, 3)
    text = data.trajectory_text(TIMES[::2, :1], torch.tensor([[[4, 4, 4]], [[2, 1, 0]]]))
    assert text == "t = 1.000  � � �\nt = 0.000  2 1 0"
