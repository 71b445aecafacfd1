"""Internal helpers that partition the phases over a mesh; not a public API.

- per-shard execution: `shard_map_batch`, `shard_map_data_parallel`,
  `shard_map_experts`, `shard_map_callback`, `vmap_shards`, `vmap_policy_shards`;
- Python between two programs: `shard_structs`, `constrain_batch`, `call_shards`,
  `call_structs`, `read_called`;
- the batch axis: `shards`, `check_prompts`, `split_batch`, `merge_batch`,
  `permute_batch`;
- constraints on activations and weights: `replicate`, `shard_rows`,
  `all_gather_weight`, `weight_sharding`;
- queries about the mesh: `is_tensor_parallel`, `layer_shards`, `is_auto_sharded`,
  `platform`.
"""

from ._batch import (
    check_prompts as check_prompts,
    merge_batch as merge_batch,
    permute_batch as permute_batch,
    shards as shards,
    split_batch as split_batch,
)
from ._constraints import (
    all_gather_weight as all_gather_weight,
    replicate as replicate,
    shard_rows as shard_rows,
    weight_sharding as weight_sharding,
    WeightSharding as WeightSharding,
)
from ._gather import vmap_policy_shards as vmap_policy_shards
from ._host_calls import (
    call_shards as call_shards,
    call_structs as call_structs,
    constrain_batch as constrain_batch,
    read_called as read_called,
    shard_structs as shard_structs,
)
from ._mesh import (
    is_auto_sharded as is_auto_sharded,
    is_tensor_parallel as is_tensor_parallel,
    layer_shards as layer_shards,
    platform as platform,
)
from ._shard_map import (
    shard_map_batch as shard_map_batch,
    shard_map_callback as shard_map_callback,
    shard_map_data_parallel as shard_map_data_parallel,
    shard_map_experts as shard_map_experts,
    vmap_shards as vmap_shards,
)
