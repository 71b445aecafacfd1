"""Environments and tools in Python, run by rollouts that pause."""

from ._environment import HostEnvironment as HostEnvironment, HostState as HostState
from ._episode import Reply as Reply
from ._parse import tool_calls as tool_calls, ToolCall as ToolCall
from ._tools import Tools as Tools
