"""Layers, losses, masks and schedules that two or more detectors share."""
