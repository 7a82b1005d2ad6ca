"""Examples in docstrings run, and each part that is chosen by its class has one."""

import doctest
import inspect

import pytest

import ddm
from ddm import datamodules, denoisers, kernels, losses, noise, orders, samplers, schedules

PARTS = [
    (kernels, kernels.Kernel),
    (noise, noise.NoiseSchedule),
    (denoisers, denoisers.Denoiser),
    (losses, losses.Loss),
    (samplers, samplers.Sampler),
    (orders, orders.RevealOrder),
    (schedules, schedules.ScheduleOptimizer),
]
PUBLIC = {
    getattr(module, name)
    for module in (ddm, kernels, noise, denoisers, losses, samplers, orders, schedules, datamodules)
    for name in module.__all__
}
EXAMPLES = sorted(
    (thing for thing in PUBLIC if ">>>" in (thing.__doc__ or "")), key=lambda thing: thing.__name__
)


@pytest.mark.parametrize("thing", [pytest.param(t, id=t.__name__) for t in EXAMPLES])
def test_examples_run(thing):
    """What an example shows is what comes out, in a namespace of its own."""
    finder = doctest.DocTestFinder(recurse=False)
    (example,) = finder.find(thing, thing.__name__, globs={})
    assert doctest.DocTestRunner().run(example).failed == 0


@pytest.mark.parametrize(("module", "base"), [pytest.param(m, b, id=b.__name__) for m, b in PARTS])
def test_parts_have_examples(module, base):
    """Every class that can be made and passed as a part shows how."""
    made = (getattr(module, name) for name in module.__all__)
    made = [c for c in made if inspect.isclass(c) and issubclass(c, base)]
    assert [c.__name__ for c in made if not inspect.isabstract(c) and c not in EXAMPLES] == []
