"""The decoder-only transformer, its weights, and LoRA."""

from ._config import (
    Llama3Scaling as Llama3Scaling,
    TransformerConfig as TransformerConfig,
)
from ._lora import (
    adapters as adapters,
    attach as attach,
    check_projections as check_projections,
    lora as lora,
    merge as merge,
    quantize as quantize,
    without_adapters as without_adapters,
)
from ._transformer import Transformer as Transformer
from ._weights import (
    Layers as Layers,
    LOGICAL_AXES as LOGICAL_AXES,
    PROJECTIONS as PROJECTIONS,
)
