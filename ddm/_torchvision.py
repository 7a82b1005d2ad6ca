"""A remedy, applied when torchvision is first imported, where its operators cannot be loaded."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_OPERATORS = ("nms", "qnms")

# Holds the declarations: torch withdraws them when the library object is collected.
_declared: list[Any] = []


class TorchvisionFinder(MetaPathFinder):
    """Finds torchvision as all others do, and imports it also beside a torch that does not fit.

    torchvision's wheels are linked against one CUDA build of torch. Beside a CPU build they cannot
    be loaded; torchvision tolerates that, but then attaches shape rules to two operators which
    that library would have declared, and the import ends in "operator torchvision::nms does not
    exist". torchmetrics, and so Lightning, import torchvision wherever it is installed and fail
    likewise. Declaring the two operators lets the import succeed; data sets, transforms and
    `make_grid` do not use them, and calling one still raises torchvision's own error.

    `import ddm` only takes note: torchvision is imported when something asks for it. In a program
    that meets the error, import `ddm` before `lightning` and `torchmetrics`, or install a
    torchvision that fits; `ddm` itself needs none (the extra `images` does).
    """

    def find_spec(
        self, fullname: str, path: Iterable[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return what the other finders find for torchvision; nothing for all other modules."""
        if fullname != "torchvision":
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, None, target)
            if spec is not None:
                if spec.loader is not None:
                    execute = partial(_execute, spec.loader.exec_module)
                    spec.loader.exec_module = execute  # type: ignore[method-assign]
                return spec
        return None


def install() -> None:
    """Put the finder before the others, once."""
    if not any(isinstance(finder, TorchvisionFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, TorchvisionFinder())


def _execute(execute: Callable[[ModuleType], None], module: ModuleType) -> None:
    """Execute torchvision; where its operators are missing, declare them and do it again."""
    import torch

    try:
        execute(module)
    except RuntimeError as error:
        if _declared or "operator torchvision::nms does not exist" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        for name in _OPERATORS:
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
        execute(module)
