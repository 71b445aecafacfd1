"""Models: policies with weights."""

from ._config import (
    Llama3Scaling as Llama3Scaling,
    TransformerConfig as TransformerConfig,
)
from ._huggingface import (
    check_tokenizer as check_tokenizer,
    load as load,
    save as save,
)
from ._huggingface_config import (
    config_from_huggingface as config_from_huggingface,
    config_to_huggingface as config_to_huggingface,
)
from ._lora import (
    adapters as adapters,
    lora as lora,
    merge as merge,
    quantize as quantize,
    without_adapters as without_adapters,
)
from ._matrix import Int8Matrix as Int8Matrix, LowRankMatrix as LowRankMatrix
from ._peft import load_adapters as load_adapters, save_adapters as save_adapters
from ._transformer import Transformer as Transformer
from ._weights import (
    KVCache as KVCache,
    Layers as Layers,
    LOGICAL_AXES as LOGICAL_AXES,
    PROJECTIONS as PROJECTIONS,
)
