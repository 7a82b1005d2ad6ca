"""Sampling schedules and how to find good ones."""

from ddm.schedules.cost_table import CostTable, Decision, keep_best
from ddm.schedules.coupling import Coupling, DataCoupling, PathCoupling
from ddm.schedules.golden_section import Peak, golden_section
from ddm.schedules.hierarchy import Breakdown, Hierarchy, Split
from ddm.schedules.jump_your_steps import JumpYourSteps
from ddm.schedules.klub import KLUB, RevealKLUB, TokenKLUB
from ddm.schedules.optimal_steps import OptimalSteps
from ddm.schedules.optimizer import Optimised, ScheduleOptimizer
from ddm.schedules.schedule import SamplingSchedule
from ddm.schedules.shortest_path import shortest_paths
from ddm.schedules.step_cost import StepCosts, loss_curve_costs, measure_step_costs

__all__ = [
    "KLUB",
    "Breakdown",
    "CostTable",
    "Coupling",
    "DataCoupling",
    "Decision",
    "Hierarchy",
    "JumpYourSteps",
    "OptimalSteps",
    "Optimised",
    "PathCoupling",
    "Peak",
    "RevealKLUB",
    "SamplingSchedule",
    "ScheduleOptimizer",
    "Split",
    "StepCosts",
    "TokenKLUB",
    "golden_section",
    "keep_best",
    "loss_curve_costs",
    "measure_step_costs",
    "shortest_paths",
]
