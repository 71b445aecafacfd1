"""Rewards that Python functions compute on the host."""

from ._calls import Calls as Calls, PermanentError as PermanentError
from ._inputs import HostInputs as HostInputs, HostOutputs as HostOutputs
from ._limit import InProcess as InProcess, InThread as InThread
from ._messages import Messages as Messages, text_of as text_of
from ._reward import HostReward as HostReward
