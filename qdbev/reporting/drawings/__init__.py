"""Drawings of a scene: cameras, the view from above, boxes in both."""
