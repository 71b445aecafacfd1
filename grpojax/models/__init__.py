"""Policies with weights: decoder-only transformers, LoRA, and their files."""

from .attention import KVCache as KVCache
from .files import (
    check_tokenizer as check_tokenizer,
    config_from_huggingface as config_from_huggingface,
    config_to_huggingface as config_to_huggingface,
    has_peft_format as has_peft_format,
    load as load,
    load_adapters as load_adapters,
    load_shapes as load_shapes,
    save as save,
    save_adapters as save_adapters,
)
from .matrix import (
    AbstractMatrix as AbstractMatrix,
    Int8Matrix as Int8Matrix,
    LowRankMatrix as LowRankMatrix,
    NF4Matrix as NF4Matrix,
)
from .transformer import (
    adapters as adapters,
    Block as Block,
    DynamicScaling as DynamicScaling,
    Experts as Experts,
    LayerKind as LayerKind,
    Layers as Layers,
    LinearScaling as LinearScaling,
    Llama3Scaling as Llama3Scaling,
    LOGICAL_AXES as LOGICAL_AXES,
    LongRopeScaling as LongRopeScaling,
    lora as lora,
    merge as merge,
    PROJECTIONS as PROJECTIONS,
    quantize as quantize,
    Rope as Rope,
    Transformer as Transformer,
    TransformerConfig as TransformerConfig,
    without_adapters as without_adapters,
    YarnScaling as YarnScaling,
)
