"""From float weights to quantized ones without training: ranges, data-free steps, rounding."""
