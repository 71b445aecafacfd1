"""What a run's directory must hold: checks before a run, checksums, and repairs."""
