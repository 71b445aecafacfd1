"""Several tasks as one environment."""

from ._mixture import Mixture as Mixture, MixtureState as MixtureState
