"""Orders as plain settings, for files: a schedule says which order it is for."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from ddm.orders.order import RevealOrder


def settings_of(order: RevealOrder) -> dict[str, Any]:
    """Return class and arguments of an order as numbers, strings, lists and mappings.

    The arguments of the constructor are read from attributes of the same names.
    """
    names = inspect.signature(type(order)).parameters
    arguments = {name: _plain(getattr(order, name)) for name in names}
    return {"class_path": _path(type(order)), "init_args": arguments}


def order_of(settings: object) -> RevealOrder:
    """Return the order that settings stand for.

    Nothing is imported: the class is one of the orders that the program knows already.

    Raises:
        ValueError: They are no settings of an order, or of one whose class is not known.
    """
    known = {_path(kind): kind for kind in _kinds(RevealOrder)}
    path = settings.get("class_path") if isinstance(settings, Mapping) else None
    if not isinstance(settings, Mapping) or not isinstance(path, str) or path not in known:
        raise ValueError(
            f"`order` must name the class of an order, got {str(settings)[:80]}; import the module "
            "that defines it, or optimize the schedule again."
        )
    given = settings.get("init_args", {})
    try:
        arguments = {
            name: order_of(value) if isinstance(value, Mapping) else value
            for name, value in given.items()
        }
        order: RevealOrder = known[path](**arguments)
        return order
    except (AttributeError, TypeError) as error:
        raise ValueError(
            f"`order` must hold the arguments of {path}, but {error}; optimize the schedule again."
        ) from error


def _plain(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, RevealOrder):
        return settings_of(value)
    if isinstance(value, Tensor):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _kinds(base: type) -> Iterator[type]:
    kind: type
    for kind in base.__subclasses__():
        if not inspect.isabstract(kind):
            yield kind
        yield from _kinds(kind)
