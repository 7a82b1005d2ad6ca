"""Examples in docstrings run, and each part that is chosen by its class has one."""

import doctest
import inspect

import pytest
from lightning.pytorch import Callback, LightningDataModule
from torchmetrics import Metric

import ddm
from ddm import (
    callbacks,
    datamodules,
    denoisers,
    kernels,
    losses,
    metrics,
    noise,
    orders,
    samplers,
    schedules,
)
from ddm.module import DiscreteDiffusion

PARTS = [
    (kernels, kernels.Kernel),
    (noise, noise.NoiseSchedule),
    (denoisers, denoisers.Denoiser),
    (losses, losses.Loss),
    (samplers, samplers.Sampler),
    (orders, orders.RevealOrder),
    (schedules, schedules.ScheduleOptimizer),
    (datamodules, LightningDataModule),
    (datamodules, datamodules.Documents),
    (datamodules, datamodules.Vocabulary),
    (metrics, Metric),
    (callbacks, Callback),
]
PUBLIC = {getattr(part, name) for part in {ddm, *(p for p, _ in PARTS)} for name in part.__all__}
PUBLIC.add(DiscreteDiffusion)
EXAMPLES = sorted(
    (thing for thing in PUBLIC if ">>>" in (thing.__doc__ or "")), key=lambda thing: thing.__name__
)


@pytest.mark.filterwarnings("ignore:The .* does not have many workers")
@pytest.mark.parametrize("thing", [pytest.param(t, id=t.__name__) for t in EXAMPLES])
def test_examples_run(thing, tmp_path, monkeypatch):
    """What an example shows is what comes out, in a namespace and a folder of its own."""
    monkeypatch.chdir(tmp_path)
    finder = doctest.DocTestFinder(recurse=False)
    (example,) = finder.find(thing, thing.__name__, globs={})
    assert doctest.DocTestRunner().run(example).failed == 0


@pytest.mark.parametrize(("module", "base"), [pytest.param(m, b, id=b.__name__) for m, b in PARTS])
def test_parts_have_examples(module, base):
    """Every class that can be made and passed as a part shows how."""
    made = (getattr(module, name) for name in module.__all__)
    made = [c for c in made if inspect.isclass(c) and issubclass(c, base)]
    assert [c.__name__ for c in made if not inspect.isabstract(c) and c not in EXAMPLES] == []
