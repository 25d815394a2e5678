"""A synthetic scene as files in nuScenes format."""
