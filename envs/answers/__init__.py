"""Kinds of answers: how a question's answer is stored, found and checked."""

from ._abstract import AbstractAnswer as AbstractAnswer, Checked as Checked
from ._integer import Integer as Integer
from ._no_answer import NoAnswer as NoAnswer
