"""What sets a family apart, and how its keys are read."""

import dataclasses
from collections.abc import Callable, Mapping

from ...transformer import Block, Experts
from ._values import integer, number, refuse, switch


Values = Mapping[str, object]


FULL, SLIDING = "full_attention", "sliding_attention"
"""The kinds of layers in `layer_types`."""

SHAPES = ("llama", "mistral", "qwen2", "qwen3")
"""The families that a configuration's shape is enough to tell."""


def _none(values: Values, count: int) -> list[bool]:
    del values, count
    return []


def all_windows(values: Values, count: int) -> list[bool]:
    return [True] * count if values.get("sliding_window") is not None else []


def _may_slide(values: Values) -> bool:
    window = values.get("sliding_window")
    return switch(values, "use_sliding_window") and window is not None


def all_if_sliding(values: Values, count: int) -> list[bool]:
    return [True] * count if _may_slide(values) else []


def last_windows(values: Values, count: int) -> list[bool]:
    """Qwen's upper layers."""
    first = values.get("max_window_layers")
    if not isinstance(first, int) or isinstance(first, bool):
        refuse("max_window_layers", first, "an integer")
    return [layer >= first for layer in range(count)] if _may_slide(values) else []


def first_windows(values: Values, count: int) -> list[bool]:
    """Every other one of Qwen2-MoE's lower layers."""
    bound = integer(values, "max_window_layers")
    slides = [layer % 2 == 0 and layer < bound for layer in range(count)]
    return slides if _may_slide(values) else []


def windows_between(key: str, every: int) -> Callable[[Values, int], list[bool]]:
    """All layers but each `every`-th one, or as a key says."""

    def windows(values: Values, count: int) -> list[bool]:
        period = integer(values, key, every)
        return [layer % period != 0 for layer in range(1, count + 1)]

    return windows


def windows_without_rope(values: Values, count: int) -> list[bool]:
    if not _may_slide(values):
        return []
    return [not is_rotated for is_rotated in some_ropes(values, count)]


def some_ropes(values: Values, count: int) -> list[bool]:
    """SmolLM3's layers with a rotary embedding."""
    flags = values.get("no_rope_layers")  # 1 is a layer with one.
    if flags is None:
        return windows_between("no_rope_layer_interval", 4)(values, count)
    if not isinstance(flags, list) or len(flags) < count or set(flags) - {0, 1}:
        refuse("no_rope_layers", flags, "a list of 0 and 1, one for each layer")
    return [bool(flag) for flag in flags[:count]]


def qwen_experts(values: Values, count: int) -> Experts:
    """In each `decoder_sparse_step`-th layer that `mlp_only_layers` does not name."""
    step = integer(values, "decoder_sparse_step", 1)
    named = values.get("mlp_only_layers") or []
    if not isinstance(named, list) or not all(type(x) is int for x in named):
        refuse("mlp_only_layers", named, "a list of numbers of layers")
    dense = [x for x in range(count) if x in named or (x + 1) % step]
    if len(dense) == count:
        refuse("decoder_sparse_step", step, "a layer with experts")
    return Experts(
        integer(values, experts_key(values)),
        integer(values, "num_experts_per_tok"),
        integer(values, "moe_intermediate_size"),
        switch(values, "norm_topk_prob"),
        tuple(dense),
    )


def qwen2_experts(values: Values, count: int) -> Experts:
    """Qwen's, and one more that every token has."""
    shared = integer(values, "shared_expert_intermediate_size")
    return dataclasses.replace(qwen_experts(values, count), shared=shared)


def olmo_experts(values: Values, count: int) -> Experts:
    del count
    return Experts(
        integer(values, experts_key(values)),
        integer(values, "num_experts_per_tok"),
        integer(values, "intermediate_size"),
        switch(values, "norm_topk_prob"),
    )


def gpt_experts(values: Values, count: int) -> Experts:
    del count
    clamp = number(values, "swiglu_alpha"), number(values, "swiglu_limit")
    return Experts(
        integer(values, experts_key(values)),
        integer(values, "num_experts_per_tok"),
        integer(values, "intermediate_size"),
        biases=True,
        clamp=clamp,
    )


def experts_key(values: Values) -> str:
    """The key of the number of experts: `transformers` 5 calls it as Mixtral does."""
    old, new = "num_experts", "num_local_experts"
    if values.get(old) is not None and values.get(new) not in (None, values[old]):
        refuse(new, values[new], values[old])
    return old if values.get(old) is not None else new


def mixtral_experts(values: Values, count: int) -> Experts:
    del count
    return Experts(
        integer(values, experts_key(values)),
        integer(values, "num_experts_per_tok"),
        integer(values, "intermediate_size"),
    )


@dataclasses.dataclass(frozen=True)
class Family:
    """What sets the models of one `model_type` apart.

    **Fields:**

    - `architecture`: the class of `transformers`.
    - `defaults`: values of keys that a file may leave out.
    - `block`: the switches that no key of the file changes.
    - `qkv_bias`, `qk_norm`: as in `TransformerConfig`.
    - `switches`: keys that turn on fields of the configuration, by their paths.
    - `numbers`: keys that are fields of the configuration, by their path.
    - `optional`: those of `numbers` that may be null.
    - `windows`: which layers have a window, unless `layer_types` says it; an empty list
        for none.
    - `ropes`: which layers have a rotary embedding; an empty list for all.
    - `has_types`: whether `layer_types` is read.
    - `local_theta`: of layers with windows, which have a rotary embedding of their own;
        `None` where all layers share one.
    - `rope_kinds`: the kinds of scaling by their names in the file; all by default.
    - `grows_queries`: the rope's values say how queries grow with their position.
    - `activation`: the key of the MLP's activation.
    - `scales_by_size`: embeddings are multiplied by the root of their size, and scores
        divided by that of `query_pre_attn_scalar` (Gemma).
    - `reads`: keys that are read, and refused by other families.
    - `refuses`: keys that must be absent or null.
    - `is_fused`: query, key and value are one tensor, and gate and up another (Phi-3).
    - `is_packed`: the experts of a layer are one tensor, in which units of gate and up
        alternate, and may be of 4 bits (gpt-oss).
    - `experts`: reads those in the place of the MLP, if there are any.
    """

    architecture: str
    defaults: Values = dataclasses.field(default_factory=dict)
    block: Block = Block()
    qkv_bias: bool = False
    qk_norm: bool = False
    switches: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    numbers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    optional: tuple[str, ...] = ()
    windows: Callable[[Values, int], list[bool]] = _none
    ropes: Callable[[Values, int], list[bool]] = _none
    has_types: bool = False
    local_theta: float | None = None
    rope_kinds: Mapping[str, str] | None = None
    grows_queries: bool = False
    activation: str = "hidden_act"
    scales_by_size: bool = False
    reads: tuple[str, ...] = ()
    refuses: tuple[str, ...] = ()
    is_fused: bool = False
    is_packed: bool = False
    experts: Callable[[Values, int], Experts] | None = None
