"""How much of a difference of scores the choice of scenes explains."""
