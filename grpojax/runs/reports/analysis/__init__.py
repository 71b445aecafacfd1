"""Statistics over evaluations and seeds: what changed, and how certain that is."""
