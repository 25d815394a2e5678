"""Samples as an mmdet3d config wants them."""
