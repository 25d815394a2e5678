"""The synthetic world: roads, surroundings, and who moves in it."""
