"""What detectors on camera images share: backbone, the frames of a batch, projection into the images."""
