"""Experiment trackers beside the run's own files."""
