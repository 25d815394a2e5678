"""What detectors with object queries share: self-attention, references, branches, what a decoder gives."""
