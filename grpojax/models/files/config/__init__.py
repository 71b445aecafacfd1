"""Hugging Face's config.json: families, rotary embeddings, and their conversion."""

from ._families import FAMILIES as FAMILIES
from ._read import config_from_huggingface as config_from_huggingface
from ._write import config_to_huggingface as config_to_huggingface
