"""The decoder-only transformer, its weights, and LoRA."""

from ._config import (
    Block as Block,
    Experts as Experts,
    TransformerConfig as TransformerConfig,
)
from ._lora import (
    adaptable as adaptable,
    adapters as adapters,
    attach as attach,
    check_projections as check_projections,
    lora as lora,
    merge as merge,
    quantize as quantize,
    without_adapters as without_adapters,
)
from ._rope import (
    DynamicScaling as DynamicScaling,
    LayerKind as LayerKind,
    LinearScaling as LinearScaling,
    Llama3Scaling as Llama3Scaling,
    LongRopeScaling as LongRopeScaling,
    Rope as Rope,
    RopeScaling as RopeScaling,
    YarnScaling as YarnScaling,
)
from ._transformer import Transformer as Transformer
from ._weights import (
    EXPERTS as EXPERTS,
    Layers as Layers,
    LOGICAL_AXES as LOGICAL_AXES,
    PROJECTIONS as PROJECTIONS,
)
