"""Charts: curves, stages, sensitivity, Pareto front, operations."""
