"""Checkpoints of train states."""
