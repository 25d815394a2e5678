"""Bits for every layer: what a layer loses at each width, what it costs, and the choice."""
