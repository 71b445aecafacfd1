"""How an opinion shifts after a video, in one turn; see `envs.slates`."""

from ._opinion import environments as environments, Opinion as Opinion
