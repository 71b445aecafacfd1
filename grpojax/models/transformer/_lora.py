"""LoRA and quantization: transformations of a policy."""

import difflib
from collections.abc import Callable, Mapping, Sequence

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Key

from ...policy import AbstractPolicy
from ..matrix import (
    AbstractMatrix,
    as_matrix,
    LowRankMatrix,
    Matrix,
    quantize_matrix,
)
from ._config import TransformerConfig
from ._transformer import Transformer
from ._weights import PROJECTIONS


def lora(
    policy: Transformer,
    projections: Sequence[str] | None = None,
    *,
    rank: int,
    alpha: float | int,
    key: Key[Array, ""],
) -> Transformer:
    """The policy with low-rank adapters (LoRA), which alone are trained.

        x W  becomes  x W + (alpha / rank) · (x A) B

    `A` is uniform in ±1/√inputs, as PEFT draws it, and `B` is zero, so the adapted
    policy equals the policy. Adapters are float32, whatever the dtype of the weights.

    **Arguments:**

    - `policy`: its weights may be quantized (`quantize`).
    - `projections`: which of `query`, `key`, `value`, `output`, `gate`, `up`, `down`;
        by default all of them or, in a model with experts, those of attention.
    - `rank`: of every adapter.
    - `alpha`: scales every adapter by alpha / rank.
    - `key`: draws `A`; that of one projection does not depend on the others' names.

    **Returns:** the adapted policy; it shares the weights of `policy`.

    **Raises:** `ValueError` for a rank below 1, an alpha that is not positive, an
    unknown projection, an MLP's of a model with experts, or one that has an adapter
    already.

    Source: arXiv:2106.09685.

    !!! example

        ```python
        adapted = lora(policy, ("query", "value"), rank=16, alpha=32, key=key)
        state = grpojax.init(
            adapted, optimizer=optimizer, reference=without_adapters, key=key
        )
        ```
    """
    projections = adaptable(policy.config) if projections is None else projections
    check_projections(projections)
    experts = set(projections) - set(adaptable(policy.config))
    if experts:
        raise ValueError(
            "Adapters of a model with experts belong to its attention, as those of "
            f"PEFT do. Received {', '.join(sorted(experts))}: name some of "
            f"{', '.join(adaptable(policy.config))}."
        )
    if rank < 1 or alpha <= 0:
        raise ValueError(
            "An adapter has a rank of at least 1 and a positive alpha. Received "
            f"rank={rank}, alpha={alpha}."
        )
    keys: dict[str, Array] = dict(
        zip(PROJECTIONS, jr.split(key, len(PROJECTIONS)), strict=True)
    )
    matrices = policy.layers.projections

    def draw(name: str) -> tuple[Array, Array, float]:
        layers, inputs, outputs = as_matrix(matrices[name]).shape
        shape, bound = (layers, inputs, rank), inputs**-0.5
        a = jr.uniform(keys[name], shape, jnp.float32, -bound, bound)
        return a, jnp.zeros((layers, rank, outputs), jnp.float32), float(alpha)

    return attach(policy, {name: draw(name) for name in projections})


def adaptable(config: TransformerConfig) -> tuple[str, ...]:
    """The projections that adapters may belong to: not those beside experts."""
    return PROJECTIONS if config.switches.experts is None else PROJECTIONS[:4]


def attach(
    policy: Transformer, factors: Mapping[str, tuple[Array, Array, float]]
) -> Transformer:
    """The policy with adapters of given factors.

    **Arguments:**

    - `policy`: the policy.
    - `factors`: `A`, `B` and alpha by projection.

    **Raises:** `ValueError` if one of the projections has an adapter already.
    """

    def adapt(name: str, matrix: Matrix) -> Matrix:
        if name not in factors:
            return matrix
        if isinstance(matrix, LowRankMatrix):
            raise ValueError(
                f"A projection has one adapter. `{name}` has one of rank {matrix.rank} "
                "already: `merge` the policy, or take it `without_adapters`."
            )
        return LowRankMatrix(matrix, *factors[name])

    return _map(adapt, policy)


def merge(policy: Transformer) -> Transformer:
    """The policy with dense weights, in the dtype of its embedding.

    Adapters are added to their base and quantized matrices are dequantized; dense
    weights are unchanged. In 16 bits the sum is rounded: continue training from the
    adapters.
    """
    is_matrix = lambda x: isinstance(x, AbstractMatrix)
    dense = lambda _, x: x.dense(policy.embedding.dtype) if is_matrix(x) else x
    return _map(dense, policy)


def without_adapters(policy: Transformer) -> Transformer:
    """The base of an adapted policy; it shares the base's arrays.

    As the `reference` of `grpojax.init` it is the reference policy of a KL penalty.
    """
    return _map(lambda _, x: x.base if isinstance(x, LowRankMatrix) else x, policy)


def quantize(policy: AbstractPolicy, bits: int = 8) -> Transformer:
    """The policy with its projections in 8 or 4 bits.

        8:  W[i, o] = integer[i, o] · scale[o]              (absmax of each output)
        4:  W[i, o] = level[code[i, o]] · absmax[i // 64, o]    (NF4, as of QLoRA)

    Embedding, head, norms, biases and adapters are unchanged, and matrices in so many
    bits or fewer. A quantized policy is frozen: `lora` adds adapters to train. As the
    `behavior` of a `RolloutConfig` it is the policy that samples, and the policy in
    full precision is trained.

    **Arguments:**

    - `policy`: with adapters or without.
    - `bits`: of a weight. 4 take 4.25 with their share of the absmax.

    **Raises:** `TypeError` for a policy of another class, `ValueError` for other bits.

    Source: arXiv:2305.14314 for 4 bits.

    !!! example

        ```python
        base = models.quantize(policy, bits=4)
        adapted = models.lora(base, rank=16, alpha=32, key=key)
        ```
    """
    if not isinstance(policy, Transformer):
        raise TypeError(
            "`models.quantize` takes a `models.Transformer`, whose projections it "
            f"quantizes. Received a policy of the class `{type(policy).__name__}`: "
            "leave it out, or quantize that policy with a function of your own."
        )
    if bits not in (4, 8):
        raise ValueError(
            f"Projections are quantized to 4 or 8 bits. Received bits={bits!r}: choose "
            "one of them."
        )
    return _map(lambda _, matrix: quantize_matrix(matrix, bits), policy)


def adapters(policy: Transformer) -> dict[str, LowRankMatrix]:
    """The projections that have an adapter, by name."""
    matrices = policy.layers.projections.items()
    return {name: x for name, x in matrices if isinstance(x, LowRankMatrix)}


def check_projections(projections: Sequence[str]) -> None:
    """Checks names of projections.

    **Raises:** `ValueError` for an unknown name, or if there are none.
    """
    for name in projections:
        if name not in PROJECTIONS:
            near = difflib.get_close_matches(name, PROJECTIONS, 1, 0)
            raise ValueError(
                f"Adapters belong to some of {', '.join(PROJECTIONS)}. Received "
                f"{name!r}: did you mean {near[0]!r}?"
            )
    if not projections:
        raise ValueError(
            f"Adapters belong to some of {', '.join(PROJECTIONS)}. Received none: name "
            "one at least."
        )


def _map(change: Callable[[str, Matrix], Matrix], policy: Transformer) -> Transformer:
    """The policy with `change(name, matrix)` in the place of every projection."""
    layers = policy.layers.map_projections(change)
    return eqx.tree_at(lambda p: p.layers, policy, layers)
