"""Rewards that Python functions compute on the host."""

from ._inputs import HostInputs as HostInputs, HostOutputs as HostOutputs
from ._messages import Messages as Messages, text_of as text_of
from ._reward import HostReward as HostReward
