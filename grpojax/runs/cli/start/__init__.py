"""How a command starts: its recipe, its processes, its compiled programs."""
