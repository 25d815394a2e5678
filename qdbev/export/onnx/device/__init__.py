"""Graphs for devices that are not here: explicit QuantizeLinear and DequantizeLinear at bits that the device has."""
