"""nuScenes tables to samples: records, infos, motion, rig, cache."""
