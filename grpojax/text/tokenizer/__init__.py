"""Tokenizers: text to token ids and back, on the host."""

from ._abstract import AbstractTokenizer as AbstractTokenizer
from ._files import TokenizerFiles as TokenizerFiles
from ._huggingface import HuggingFaceTokenizer as HuggingFaceTokenizer
from ._load import load_tokenizer as load_tokenizer
from ._sentencepiece import SentencePieceTokenizer as SentencePieceTokenizer
from ._tools import json_schemas as json_schemas
