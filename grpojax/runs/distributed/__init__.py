"""Meshes, multi-process runs, preemption and supervision."""
