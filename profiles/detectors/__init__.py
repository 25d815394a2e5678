"""What a profile says of a detector: BEVFormer's numbers, or a config of mmdet3d."""
