"""What cameras and LiDAR see of a synthetic world."""
