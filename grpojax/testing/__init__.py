"""Conformance checks of environments, policies and estimators, for yours and ours.

A check raises an `AssertionError` with the law that is broken and what was received.
The moments of a gradient estimator are values, to compare with what is known of it.
"""

from ._environment import check_env as check_env
from ._gradient_moments import (
    CompletionTree as CompletionTree,
    gradient_moments as gradient_moments,
    GradientMoments as GradientMoments,
)
from ._policy import check_policy as check_policy
