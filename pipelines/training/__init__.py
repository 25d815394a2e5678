"""Training: float, stage by stage, and distillation."""
