"""Callbacks for Lightning, installed as `ddm.callbacks`."""

from ddm.callbacks.jys_schedule import JYSScheduleCallback
from ddm.callbacks.sample_logger import SampleLogger, token_figure

__all__ = ["JYSScheduleCallback", "SampleLogger", "token_figure"]
