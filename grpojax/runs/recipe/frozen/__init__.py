"""Frozen policies beside the one that is trained: teachers and judges."""
