"""Rules that map the logical axes of a policy's arrays to axes of the mesh."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from ..types import Axes


class Rule(NamedTuple):
    """The mesh axes that one logical axis is sharded over.

    **Fields:**

    - `over`: names of mesh axes.
    - `also`: names of further ones, left out unless they split the axis evenly.
    - `replicate_if_indivisible`: whether an axis that cannot be split evenly is
        replicated; otherwise it is an error.
    """

    over: tuple[str, ...]
    replicate_if_indivisible: bool = False
    also: tuple[str, ...] = ()


Table = Mapping[str, Rule]
"""Rules by logical axis; an axis without a rule is replicated."""

DECODING: Table = {
    "vocab": Rule(("tensor",), replicate_if_indivisible=True, also=("expert",)),
    "heads": Rule(("tensor",), also=("expert",)),
    # Several query heads share one of them, so each device may hold them all.
    "kv_heads": Rule(("tensor",), replicate_if_indivisible=True, also=("expert",)),
    "mlp": Rule(("tensor",), also=("expert",)),
    "expert": Rule(("expert",)),
    "expert_mlp": Rule(("tensor",)),
    # Blocks of inputs that are quantized together.
    "heads_blocks": Rule(("tensor",), replicate_if_indivisible=True, also=("expert",)),
    "mlp_blocks": Rule(("tensor",), replicate_if_indivisible=True, also=("expert",)),
    "expert_mlp_blocks": Rule(("tensor",)),
}
"""Weights as products read them: replicated over `fsdp`, so that decoding a token
all-gathers none of them."""

TRAINING: Table = {
    **DECODING,
    "hidden": Rule(("fsdp",)),
    "hidden_blocks": Rule(("fsdp",), replicate_if_indivisible=True),
}
"""Weights as they are stored between steps: sharded over `fsdp`, `tensor` and
`expert`, and replicated over `data`."""


def partition_spec(
    axes: Axes, mesh: Mesh | AbstractMesh, table: Table, name: str = ""
) -> PartitionSpec:
    """How an array with these logical axes is partitioned.

    **Arguments:**

    - `axes`: the array's logical axes.
    - `mesh`: the mesh; axes that `shard_map` has made manual are left out.
    - `table`: the rules.
    - `name`: of the array, for the error message.

    **Raises:** `ValueError` for an axis that cannot be split evenly.
    """
    manual = mesh.manual_axes if isinstance(mesh, AbstractMesh) else ()
    spec = []
    for axis, pieces in zip(axes.names, axes.pieces, strict=True):
        rule = table.get(axis or "", Rule(()))
        has = lambda x: mesh.shape[x] > 1 and x not in manual
        over, also = (tuple(filter(has, names)) for names in (rule.over, rule.also))
        count = math.prod(mesh.shape[x] for x in over)
        if also and pieces % (count * math.prod(mesh.shape[x] for x in also)) == 0:
            spec.append(over + also)
        elif pieces % count == 0:
            spec.append(over or None)
        elif rule.replicate_if_indivisible:
            spec.append(None)
        else:
            raise ValueError(
                f"An axis is sharded into equal parts. Received `{axis}` of {pieces} "
                f"for the {count} parts of the mesh's {' x '.join(over)}"
                f"{f' ({name})' if name else ''}: choose a size that divides {pieces}."
            )
    return PartitionSpec(*spec)
