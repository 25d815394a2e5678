"""Detectors: mmdet3d models that name their parts and taps, and know nothing of quantization."""
