"""Set-up of the test session."""

# Before anything imports Lightning or torchmetrics: see ddm/_torchvision.py.
import ddm  # noqa: F401
