"""A run directory parsed into values; tolerates missing and damaged files."""
