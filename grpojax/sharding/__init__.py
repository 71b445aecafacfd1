"""Meshes, and the placement of policies and train states on them.

A mesh has four axes:

- `data`: data parallelism; every part holds a replica of the weights;
- `fsdp`: data parallelism with fully sharded weights and optimizer state, which are
  all-gathered layer by layer when they are used;
- `tensor`: tensor parallelism over heads, the MLP's hidden axis and the vocabulary;
- `expert`: the experts of a layer are split over it, and what else `tensor` splits.

The batch's prompts are split over `data` and `fsdp`. A policy names the axes of its
arrays (`AbstractPolicy.logical_axes`), a table of rules maps each name to mesh axes,
and the compiler partitions the program. Everything here reads the mesh set by
`jax.set_mesh`; without one it changes nothing.

!!! example

    ```python
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    state = sharding.place(state, mesh)
    with jax.set_mesh(mesh):
        state, metrics = step(state)
    ```

This namespace holds what users call; `sharding.spmd` holds what the library's phases
are partitioned with, such as `shard_map` over the batch and activation constraints.
"""

from . import spmd as spmd
from ._batch import check_prompts as check_prompts
from ._mesh import BATCH as BATCH, make_mesh as make_mesh, NAMES as NAMES
from ._place import (
    constrain as constrain,
    place as place,
    shardings as shardings,
)
from ._rules import (
    DECODING as DECODING,
    Rule as Rule,
    Table as Table,
    TRAINING as TRAINING,
)
