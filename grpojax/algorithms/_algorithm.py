"""The `Algorithm` module."""

from collections.abc import Callable

import equinox as eqx
from jaxtyping import Array, Bool, Float

from .._checks import check_parts
from ..types import Rewards
from ..update import Objective


class Algorithm(eqx.Module):
    """A policy-gradient algorithm: advantage estimator, row selection and objective.

    **Fields:**

    - `advantage`: Rewards -> Advantages; see `grpojax.advantage`.
    - `select`: Rewards -> mask of the rows that are trained on, `Bool[prompt group]`.
    - `objective`: the loss; see `update.Objective`.

    Hyperparameters are leaves: as arrays they can be swept by `vmap`, and `eqx.tree_at`
    edits them.

    **Raises:** `TypeError` for a class in place of an instance.

    !!! example

        ```python
        algorithm = Algorithm(
            advantage.GroupNormalized(),
            advantage.keep_all,
            update.Objective(surrogate=update.Clip(0.2, 0.28)),
        )
        ```
    """

    advantage: Callable[[Rewards], Float[Array, "prompt group *time"]]
    select: Callable[[Rewards], Bool[Array, "prompt group"]]
    objective: Objective

    def __check_init__(self):
        check_parts(
            "Algorithm",
            advantage=self.advantage,
            select=self.select,
            objective=self.objective,
        )
