"""What an exported graph has to pass before it is sealed: it is run, and held against the detector at every tap."""
