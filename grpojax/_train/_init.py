"""The initial train state."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key, PyTree

from .._checks import check_instances
from ..policy import AbstractPolicy
from ..types import TrainState
from ..update import Reference


def init(
    policy: AbstractPolicy,
    *,
    optimizer: optax.GradientTransformation,
    reference: Reference | None = None,
    curriculum: PyTree = None,
    key: Key[Array, ""],
) -> TrainState:
    """The initial train state, of steps that sample with its policy and to the end.

    `TrainStep.init` makes that of any step: it keeps earlier policies for `staleness`,
    and unfinished rows for `partial_prompts`.

    **Arguments:**

    - `policy`: the arrays that `policy.trainable()` selects are trained.
    - `optimizer`: an optax transformation; pass the same one to `train_step`.
    - `reference`: the frozen reference policy of a KL penalty, or a function that
        derives it from the trained policy, such as `models.without_adapters`, at no
        memory cost.
    - `curriculum`: the memory of the step's curriculum, `curriculum.init(env)`.
    - `key`: root PRNG key, from which all keys of all steps are folded.

    **Raises:** `ValueError` if no array of the policy is trainable.
    """
    check_instances("init", policy=policy, optimizer=optimizer, key=key)
    params = eqx.filter(policy, policy.trainable())
    if not jax.tree.leaves(params) and jax.tree.leaves(policy):
        raise ValueError(
            "A step trains some of a policy's arrays. Received a policy that is frozen "
            "entirely: quantized weights need adapters, `models.lora`."
        )
    if reference is not None and not isinstance(reference, AbstractPolicy):
        # A pytree node, so that all leaves of the state are arrays.
        reference = jax.tree_util.Partial(reference)
    return TrainState(
        policy=policy,
        opt_state=optimizer.init(params),
        reference=reference,
        version=jnp.zeros((), jnp.int32),
        key=key,
        curriculum=curriculum,
    )
