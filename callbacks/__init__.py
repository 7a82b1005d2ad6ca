"""Callbacks for Lightning, installed as `ddm.callbacks`."""

from ddm.callbacks.jys_schedule import JYSScheduleCallback
from ddm.callbacks.sample_logger import SampleLogger

__all__ = ["JYSScheduleCallback", "SampleLogger"]
