"""Choosing the next video from a slate, in one turn; see `envs.slates`."""

from ._next_video import environments as environments, NextVideo as NextVideo
