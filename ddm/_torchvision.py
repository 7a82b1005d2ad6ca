"""The one place that imports torchvision, with a remedy where its operators cannot be loaded."""

from types import ModuleType

import torch

_OPERATORS = ("nms", "qnms")

# Holds the declarations: torch withdraws them when the library object is collected.
_declared: list[torch.library.Library] = []


def import_torchvision() -> ModuleType:
    """Import torchvision, also beside a build of torch that its compiled operators do not fit.

    torchvision's wheels are linked against one CUDA build of torch. Beside a CPU build they cannot
    be loaded; torchvision tolerates that, but then attaches shape rules to two operators which
    that library would have declared, and the import ends in "operator torchvision::nms does not
    exist". torchmetrics, and so Lightning, import torchvision wherever it is installed and fail
    likewise. Declaring the two operators lets the import succeed; data sets, transforms and
    `make_grid` do not use them, and calling one still raises torchvision's own error.

    `import ddm` calls this before anything imports Lightning. In a program that meets the error,
    import `ddm` before `lightning` and `torchmetrics`.

    Returns:
        The module `torchvision`.

    Raises:
        ModuleNotFoundError: torchvision is not installed.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if _declared or "operator torchvision::nms does not exist" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        for name in _OPERATORS:
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
        import torchvision
    return torchvision
