"""The parts of games: turns as bytes, replies, and exact arithmetic."""

from ._expression import evaluate as evaluate, Value as Value
from ._fraction import Fraction as Fraction
from ._game import (
    both_splits as both_splits,
    Game as Game,
    GameState as GameState,
    make_rows as make_rows,
    Move as Move,
    Row as Row,
    TEXT_SIZE as TEXT_SIZE,
)
from ._text import (
    is_digit as is_digit,
    last as last,
    last_bytes as last_bytes,
    last_integer as last_integer,
    last_run as last_run,
    positions as positions,
)
