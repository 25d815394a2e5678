"""Rewrites before quantization that keep the float function: folding, equalisation, smoothing, biases."""
