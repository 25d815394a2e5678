"""Meshes of everything that stands or drives in a synthetic world."""
