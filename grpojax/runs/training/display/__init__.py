"""Progress display and learning-curve plot of a run."""
