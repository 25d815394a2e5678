"""Samples to temporal queues and batches: transforms, turning, calibration sets."""
