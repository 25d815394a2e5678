"""Operations that quantize badly, found by watching an example run of a float model."""
