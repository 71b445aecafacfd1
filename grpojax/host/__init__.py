"""Environments and tools in Python, run by rollouts that pause."""

from ._abstract import (
    AbstractHostEnvironment as AbstractHostEnvironment,
    HostAnswers as HostAnswers,
    HostState as HostState,
)
from ._environment import HostEnvironment as HostEnvironment
from ._episode import Reply as Reply
from ._parse import tool_calls as tool_calls, ToolCall as ToolCall
from ._tools import Tools as Tools
