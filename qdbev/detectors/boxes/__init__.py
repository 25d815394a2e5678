"""Boxes of centre-based detectors: code, matching, loss, heat map."""
