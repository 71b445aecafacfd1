"""A run directory parsed into values; tolerates missing and damaged files."""

from .evaluations import EvaluationRecord as EvaluationRecord
from .run import read_run as read_run, Run as Run, SEED_KEYS as SEED_KEYS
