"""What led to what: kinds of artifacts, the chain of a model, its float control, its bit plan; no torch."""
