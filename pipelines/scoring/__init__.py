"""Predictions over a split, their scores, what they are compared with, and the table of parts."""
