"""Text on both sides: tokenizers on the host, bytes inside the compiled program."""

from . import _oracle
from ._bytes import Bytes as Bytes, pack as pack, to_bytes as to_bytes
from ._files import TokenizerFiles as TokenizerFiles
from ._huggingface import HuggingFaceTokenizer as HuggingFaceTokenizer
from ._load import load_tokenizer as load_tokenizer
from ._number import (
    last_number as last_number,
    Number as Number,
    number_after as number_after,
    number_in_tag as number_in_tag,
)
from ._search import (
    contains as contains,
    count as count,
    tags_in_order as tags_in_order,
)
from ._sentencepiece import SentencePieceTokenizer as SentencePieceTokenizer
from ._token_bytes import byte_table as byte_table, TokenBytes as TokenBytes
from ._tokenizer import AbstractTokenizer as AbstractTokenizer


oracle = _oracle
