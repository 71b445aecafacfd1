"""Reading and writing models: Hugging Face directories, safetensors and PEFT."""

from ._huggingface import (
    check_tokenizer as check_tokenizer,
    load as load,
    load_shapes as load_shapes,
    save as save,
)
from ._peft import (
    has_peft_format as has_peft_format,
    load_adapters as load_adapters,
    save_adapters as save_adapters,
)
from .config import (
    config_from_huggingface as config_from_huggingface,
    config_to_huggingface as config_to_huggingface,
)
