"""Data: nuScenes tables (real or synthetic) to samples, temporal queues and batches."""
