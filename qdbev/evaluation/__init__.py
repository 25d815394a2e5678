"""Evaluation: nuScenes submissions, the devkit's scores, and paired bootstrap intervals over scenes."""
