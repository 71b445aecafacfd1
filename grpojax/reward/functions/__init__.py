"""Functions for `HostReward`: regular expressions, JSON, answers, code, judges."""

from ._code import CodeTests as CodeTests
from ._gym import ReasoningGym as ReasoningGym
from ._judge import Judge as Judge
from ._math import math_verify as math_verify
from ._texts import ExactMatch as ExactMatch, JSONSchema as JSONSchema, Regex as Regex
from ._verifiers import Verifiers as Verifiers
