"""Quantizers in a network: layers, products, attention, swapping, packing."""
