"""Slates of videos and shifts of opinion; see `docs/slates-and-opinions.md`."""
