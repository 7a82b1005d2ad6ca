"""Optimal schedules: step costs, their tables, and shortest paths through them."""
