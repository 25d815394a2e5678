"""Where a profile meets the library: detector, weights, samples, quantized detector."""
