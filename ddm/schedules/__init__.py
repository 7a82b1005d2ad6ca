"""Sampling schedules and how to find good ones."""

from ddm.schedules.cost_table import CostTable, Decision, keep_best
from ddm.schedules.optimal_steps import OptimalSteps
from ddm.schedules.optimizer import Optimised, ScheduleOptimizer
from ddm.schedules.schedule import SamplingSchedule
from ddm.schedules.shortest_path import shortest_paths
from ddm.schedules.step_cost import StepCosts, measure_step_costs

__all__ = [
    "CostTable",
    "Decision",
    "OptimalSteps",
    "Optimised",
    "SamplingSchedule",
    "ScheduleOptimizer",
    "StepCosts",
    "keep_best",
    "measure_step_costs",
    "shortest_paths",
]
