"""Kinds of answers: an option of a slate, a direction, a place on a scale."""

from ._both import BothGold as BothGold, OptionAndDirection as OptionAndDirection
from ._direction import Direction as Direction, DIRECTIONS as DIRECTIONS
from ._option import Option as Option
from ._percent import Percent as Percent
