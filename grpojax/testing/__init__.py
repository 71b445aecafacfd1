"""Conformance checks of environments and policies, for our tests and for yours.

Each raises an `AssertionError` with the law that is broken and what was received.
"""

from ._environment import check_env as check_env
from ._policy import check_policy as check_policy
