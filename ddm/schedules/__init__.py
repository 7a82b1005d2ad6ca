"""Sampling schedules and how to find good ones."""

from ddm.schedule import SamplingSchedule
from ddm.schedules.jys.coupling import Coupling, DataCoupling, PathCoupling
from ddm.schedules.jys.golden_section import Peak, golden_section
from ddm.schedules.jys.hierarchy import Breakdown, Hierarchy, Split
from ddm.schedules.jys.jump_your_steps import JumpYourSteps
from ddm.schedules.jys.klub import KLUB, RevealKLUB, TokenKLUB
from ddm.schedules.optimal.by_samples import BySamples
from ddm.schedules.optimal.cost_table import CostTable
from ddm.schedules.optimal.evidence import Evidence, compare_samples
from ddm.schedules.optimal.guard import Decision, choose, keep_best
from ddm.schedules.optimal.optimal_counts import OptimalCounts
from ddm.schedules.optimal.optimal_orders import OptimalOrders
from ddm.schedules.optimal.optimal_steps import OptimalSteps
from ddm.schedules.optimal.shortest_path import shortest_paths
from ddm.schedules.optimal.step_cost import StepCosts, loss_curve_costs, measure_step_costs
from ddm.schedules.optimizer import Optimized, ScheduleOptimizer
from ddm.schedules.setting import sampler_of

__all__ = [
    "KLUB",
    "Breakdown",
    "BySamples",
    "CostTable",
    "Coupling",
    "DataCoupling",
    "Decision",
    "Evidence",
    "Hierarchy",
    "JumpYourSteps",
    "OptimalCounts",
    "OptimalOrders",
    "OptimalSteps",
    "Optimized",
    "PathCoupling",
    "Peak",
    "RevealKLUB",
    "SamplingSchedule",
    "ScheduleOptimizer",
    "Split",
    "StepCosts",
    "TokenKLUB",
    "choose",
    "compare_samples",
    "golden_section",
    "keep_best",
    "loss_curve_costs",
    "measure_step_costs",
    "sampler_of",
    "shortest_paths",
]
