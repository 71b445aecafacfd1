"""Run-time invariants of the data that the phases exchange, checked on request."""

from ._invariants import ValidationError as ValidationError
from ._validate import Stage as Stage, validate as validate
