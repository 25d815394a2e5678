"""Distillation losses on plain tensors, their weights, and a teacher's tensors on disk.

One module a loss: ``vgd`` view-guided (QD-BEV Eq. 2 to 6), ``cwd`` channel-wise, ``hints``, ``outputs`` class scores
and boxes.
"""
