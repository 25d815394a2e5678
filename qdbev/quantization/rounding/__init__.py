"""Rounding that knows the layer's output: GPTQ, AdaRound, BRECQ."""
