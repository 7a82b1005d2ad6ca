"""Orders: which masked tokens are revealed first."""

from ddm.orders.confidence import Confidence
from ddm.orders.entropy import Entropy
from ddm.orders.left_to_right import LeftToRight
from ddm.orders.margin import Margin
from ddm.orders.measured import Measured, averaged_over_offsets, measure_dependence
from ddm.orders.order import RevealOrder
from ddm.orders.random import Random
from ddm.orders.settings import order_of, settings_of
from ddm.orders.spaced import Spaced

__all__ = [
    "Confidence",
    "Entropy",
    "LeftToRight",
    "Margin",
    "Measured",
    "Random",
    "RevealOrder",
    "Spaced",
    "averaged_over_offsets",
    "measure_dependence",
    "order_of",
    "settings_of",
]
