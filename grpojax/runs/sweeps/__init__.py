"""Runs over seeds and over the values of keys, which share compiled programs."""
