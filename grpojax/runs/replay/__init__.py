"""A step of a recorded run, taken again bit for bit, and taken apart."""
