"""Sealed artifacts on disk; knows no kind of artifact."""
