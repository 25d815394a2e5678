"""Files that other programs read: a quantized detector out of this house, and back."""
