"""Kinds of answers: how a question's answer is stored, found and checked."""

from ._abstract import AbstractAnswer as AbstractAnswer, Checked as Checked
from ._choice import Choice as Choice
from ._decimal import Decimal as Decimal
from ._integer import Integer as Integer
from ._no_answer import NoAnswer as NoAnswer
from ._one_of import OneOf as OneOf
from ._text import Text as Text
