"""Checks of meaning: structure of the tables, scenes, sensors, boxes, CAN messages."""
