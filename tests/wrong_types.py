"""Calls that mypy has to refuse, in all rooms of the package; `make lint` reads them, nothing runs.

An `ignore` that is not needed is an error: it would mean that mypy takes the class for `Any`.
"""

from ddm.backbones import Transformer
from ddm.callbacks import JYSScheduleCallback, SampleLogger
from ddm.datamodules import CountDown, Images


def wrong_calls() -> None:
    """Pass what the signatures exclude."""
    Transformer(4, dim="wide")  # type: ignore[arg-type]
    JYSScheduleCallback(num_samples="many")  # type: ignore[arg-type]
    SampleLogger(num_steps="few")  # type: ignore[arg-type]
    CountDown(vocab_size="large")  # type: ignore[arg-type]
    Images("digits", flip=None)  # type: ignore[arg-type]
