"""What runs on devices: compiled programs, their memory, and actors."""
