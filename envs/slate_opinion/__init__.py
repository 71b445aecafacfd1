"""Choosing the next video, and how the opinion shifts; see `envs.slates`."""

from ._slate_opinion import environments as environments, SlateOpinion as SlateOpinion
