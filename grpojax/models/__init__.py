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
from ._transformer import Transformer as Transformer
from ._weights import (
    KVCache as KVCache,
    Layers as Layers,
    LOGICAL_AXES as LOGICAL_AXES,
)
