"""Objects made of the settings in a file, of no other classes than those that are trusted."""

from __future__ import annotations

import importlib
import inspect
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import torch

_SPEC = {"class_path", "init_args", "dict_kwargs"}
_NAMING = ("class_path", "_class_path", "_instantiator")
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
_OPTIMIZERS = (torch.optim, torch.optim.Optimizer)
_SCHEDULERS = (torch.optim.lr_scheduler, torch.optim.lr_scheduler.LRScheduler)
TORCH = frozenset(
    path
    for module, base in (_OPTIMIZERS, _SCHEDULERS)
    for name, found in vars(module).items()
    if isinstance(found, type) and issubclass(found, base)
    for path in (f"{module.__name__}.{name}", f"{found.__module__}.{name}")
)
"""The classes of torch that settings may name: optimizers and schedules of the learning rate."""


_LIGHTNING = ("lightning.pytorch", "pytorch_lightning")
# They are not called, but a file that names another is not what it seems.
_INSTANTIATORS = tuple(f"{package}.cli.instantiate_module" for package in _LIGHTNING)


class UntrustedError(ValueError):
    """A file names a class that nobody has said to trust."""


def class_paths(settings: object) -> Iterator[object]:
    """Yield whatever settings name as a class or as what makes it, at any depth."""
    inner: Iterable[object] = ()
    if isinstance(settings, Mapping):
        yield from (settings[key] for key in _NAMING if key in settings)
        inner = settings.values()
    elif isinstance(settings, list | tuple | set | frozenset):
        inner = settings
    for value in inner:
        yield from class_paths(value)


def check_trust(settings: object, trust: Sequence[str] = ()) -> None:
    """Refuse settings that name a class which is not trusted; nothing is imported.

    Raises:
        UntrustedError: There is such a class.
        ValueError: `trust` does not hold names of packages.
    """
    if isinstance(trust, str) or not all(re.fullmatch(r"\w+(\.\w+)*", name) for name in trust):
        raise ValueError(
            f"`trust` must hold names of packages or classes, got {trust!r}; write them as in "
            "Python, 'mypackage'."
        )
    for path in class_paths(settings):
        if not _trusted(path, trust):
            raise _untrusted(path)


def make(cls: Callable[..., Any], settings: Mapping[str, Any], trust: Sequence[str] = ()) -> Any:  # noqa: ANN401
    """Return an object of a class, and whatever its settings name, without running anything else.

    Nested settings are `{"class_path": ..., "init_args": {...}}`, as `LightningCLI` keeps them. The
    annotation of an argument says whether it is an object, or something that makes one; no string
    is looked up but for the latter.

    Args:
        cls: The class.
        settings: The arguments of its constructor.
        trust: The packages or classes that may be named beside those of `ddm` and `TORCH`.

    Raises:
        UntrustedError: A class is named that is not trusted; nothing was imported.
        ValueError: The settings do not fit the constructor.
    """
    check_trust(settings, trust)
    return cls(**arguments(cls, settings, trust))


def arguments(
    cls: Callable[..., Any], settings: Mapping[str, Any], trust: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the arguments of a constructor that settings stand for; see `make`."""
    if not all(isinstance(name, str) for name in settings):
        raise ValueError(f"the arguments of {_name(cls)} must have names, got {list(settings)}")
    hints = _hints(cls)
    return {name: _value(value, hints.get(name, Any), trust) for name, value in settings.items()}


def resolve(path: object, base: type = object, trust: Sequence[str] = ()) -> Any:  # noqa: ANN401
    """Return the class of that name.

    Raises:
        UntrustedError: It is not trusted.
        ValueError: There is no such class, or it is none of `base`.
    """
    if not _trusted(path, trust):
        raise _untrusted(path)
    module, _, name = str(path).rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"there is no class '{path}' ({error})") from error
    # What a trusted module has imported from elsewhere is not trusted for that.
    home = f"{getattr(found, '__module__', None)}.{getattr(found, '__qualname__', name)}"
    if not _trusted(home, trust):
        raise _untrusted(home)
    is_class = isinstance(found, type) and issubclass(found, base)
    # A function of ours makes no part of a model; one of the user's may.
    is_function = inspect.isfunction(found) and not _trusted(path, ())
    if not is_class and not is_function:
        raise ValueError(f"'{path}' must be a {base.__name__}")
    return found


def _value(value: Any, hint: Any, trust: Sequence[str]) -> Any:  # noqa: ANN401
    if isinstance(value, Mapping) and "class_path" in value:
        return _object(value, hint, trust)
    options = list(_options(hint))
    if isinstance(value, str) and str not in options:
        for option in options:
            if get_origin(option) is Callable:
                return resolve(value, _made(option), trust)
    for option in options:
        origin, inner = get_origin(option), get_args(option)
        if isinstance(value, Mapping) and origin in (dict, Mapping):
            return {key: _value(item, inner[1], trust) for key, item in value.items()}
        if isinstance(value, list | tuple) and origin is tuple:
            each = inner[:1] * len(value) if inner[1:] == (...,) else inner
            return tuple(_value(i, h, trust) for i, h in zip(value, each, strict=True))
        if isinstance(value, list | tuple) and origin in (list, Sequence):
            return [_value(item, inner[0], trust) for item in value]
    return value


def _object(spec: Mapping[str, Any], hint: Any, trust: Sequence[str]) -> Any:  # noqa: ANN401
    further = [spec.get(key) or {} for key in ("init_args", "dict_kwargs")]
    if not _SPEC >= set(spec) or not all(isinstance(part, Mapping) for part in further):
        raise ValueError(f"a class must have `class_path` and `init_args`, got {sorted(spec)}")
    options = list(_options(hint))
    makers = [option for option in options if get_origin(option) is Callable]
    classes = tuple(option for option in options if isinstance(option, type))
    found = resolve(spec["class_path"], _made(makers[0]) if makers else object, trust)
    if not makers and Any not in options and not issubclass(found, classes):
        raise ValueError(f"'{spec['class_path']}' stands where {hint} is expected")
    given = arguments(found, {**further[0], **further[1]}, trust)
    return partial(found, **given) if makers else found(**given)


def _options(hint: Any) -> Iterator[Any]:  # noqa: ANN401
    """Yield the members of a union, or the type itself."""
    origin = get_origin(hint)
    if origin is Annotated:
        yield from _options(get_args(hint)[0])
    elif origin in (Union, types.UnionType):
        for member in get_args(hint):
            yield from _options(member)
    else:
        yield hint


def _made(maker: Any) -> type:  # noqa: ANN401
    """Return the class of what a `Callable` returns."""
    result = (get_args(maker) or (object,))[-1]
    return result if isinstance(result, type) else object


def _hints(cls: Callable[..., Any]) -> dict[str, Any]:
    if not isinstance(cls, type):
        return get_type_hints(cls)
    hints: dict[str, Any] = {}
    for base in reversed(cls.__mro__):  # `**kwargs` may go on to a base class
        try:
            hints |= get_type_hints(base.__init__)  # type: ignore[misc]
        except (NameError, TypeError):  # names that only a type checker imports
            continue
    return hints


def _trusted(path: object, trust: Sequence[str]) -> bool:
    if not isinstance(path, str) or not _DOTTED.fullmatch(path):
        return False
    known = path in TORCH or path in _INSTANTIATORS
    return known or any(f"{path}.".startswith(f"{name}.") for name in ("ddm", *trust))


def _untrusted(path: object) -> UntrustedError:
    package = path.partition(".")[0] if isinstance(path, str) and _DOTTED.fullmatch(path) else None
    remedy = f"name it in `trust` (`--trust {package}`)" if package else "do not use the file"
    return UntrustedError(
        f"`checkpoint` must name classes of ddm or of packages that you trust, got {path!r}; "
        f"nothing was run: if you know where the file comes from, {remedy}."
    )


def _name(cls: object) -> str:
    return getattr(cls, "__name__", repr(cls))
