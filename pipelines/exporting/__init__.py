"""Exports: a sealed quantized detector as files that other programs read, compared with it before they are sealed."""
