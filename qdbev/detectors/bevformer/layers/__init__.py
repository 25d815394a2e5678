"""BEVFormer's layers: encoder, decoder, attention, their initial values."""
