"""The suite's own completeness: no implementation without its line in `cases.py`."""

import importlib
import inspect
import pkgutil
import re

import pytest

from cases import KERNELS, LOSSES, NOISES, ORDERS, SAMPLERS, STOPPING_RULES, label
from ddm.kernels import Kernel
from ddm.losses import Loss
from ddm.noise import NoiseSchedule
from ddm.orders import RevealOrder
from ddm.samplers import Sampler

NOUNS = {
    "ddm.kernels": (Kernel, KERNELS),
    "ddm.noise": (NoiseSchedule, NOISES),
    "ddm.orders": (RevealOrder, ORDERS),
    "ddm.samplers": (Sampler, SAMPLERS),
    "ddm.losses": (Loss, LOSSES),
}
PACKAGES = [*NOUNS, "ddm.adapters", "ddm.denoisers", "ddm.schedules"]


def exported(package):
    """Return what a package exports, by name."""
    module = importlib.import_module(package)
    return {name: getattr(module, name) for name in module.__all__}


def public_classes():
    """Return the classes that the packages export."""
    return [
        pytest.param(value, id=f"{package}.{name}")
        for package in PACKAGES
        for name, value in exported(package).items()
        if inspect.isclass(value)
    ]


each_class = pytest.mark.parametrize("cls", public_classes())


@pytest.mark.parametrize("package", NOUNS)
def test_every_class_is_a_case(package):
    """Every concrete class that a package exports has its line in `cases.py`."""
    noun, cases = NOUNS[package]
    concrete = {
        value
        for value in exported(package).values()
        if inspect.isclass(value) and issubclass(value, noun) and not inspect.isabstract(value)
    }
    listed = {type(case) for case in cases}
    assert concrete, "the package exports something"
    assert not concrete - listed, "add a line to tests/cases.py"
    assert not listed - concrete, f"export it in {package}/__init__.py"


@pytest.mark.parametrize("package", NOUNS)
def test_every_module_is_exported(package):
    """Every implementation in a package's folder is exported, so that none goes unnoticed.

    An abstract class, like that of samplers that reveal tokens, may stay internal.
    """
    noun, _ = NOUNS[package]
    for _, name, _ in pkgutil.iter_modules(importlib.import_module(package).__path__):
        module = importlib.import_module(f"{package}.{name}")
        for cls in vars(module).values():
            own = inspect.isclass(cls) and cls.__module__ == module.__name__
            if own and issubclass(cls, noun) and not inspect.isabstract(cls):
                assert cls.__name__ in exported(package)


@pytest.mark.parametrize("cases", [KERNELS, NOISES, ORDERS, STOPPING_RULES, SAMPLERS, LOSSES])
def test_labels_differ(cases):
    """Cases are told apart by their labels."""
    assert len({label(case) for case in cases}) == len(cases)


def first_line(value):
    """Return the first line of the object's own docstring, which stands alone."""
    lines = (value.__doc__ or "").strip("\n").splitlines()
    assert lines, "there is a docstring"
    assert len(lines) == 1 or not lines[1].strip(), "a blank line follows the first"
    return lines[0].strip()


@each_class
def test_class_docstring(cls):
    """The first line of a class docstring stands alone: it is the command-line help."""
    assert "__doc__" in vars(cls), "the docstring is its own, not inherited"
    line = first_line(cls)
    assert line.endswith((".", ":", "?")), line
    assert line[0].isupper() or line[0] == "`", line
    assert len(line.split()) >= 3, "it says more than the name"
    assert not re.match(rf"(the |a |an )?{cls.__name__}\W*$", line, re.IGNORECASE)


@each_class
def test_constructor_docstring(cls):
    """Every argument of a constructor is described, under `Args:` or as an attribute."""
    if "__init__" in vars(cls):
        names = list(inspect.signature(cls).parameters)
        for name in names:
            assert re.search(rf"^\s+{name}: ", cls.__doc__, re.MULTILINE), name


@each_class
def test_method_docstrings(cls):
    """Every public method and property that a class defines has a docstring of its own."""
    for name, value in vars(cls).items():
        function = value.fget if isinstance(value, property) else value
        function = getattr(function, "__func__", function)
        if not name.startswith("_") and inspect.isfunction(inspect.unwrap(function)):
            assert first_line(function).endswith((".", ":")), name
