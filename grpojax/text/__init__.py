"""Text: tokenizers on the host, bytes and parsers inside the compiled program."""

from . import oracle as oracle
from ._bytes import Bytes as Bytes, pack as pack, to_bytes as to_bytes
from ._ends import split_ends as split_ends
from ._replies import (
    reply_tokens as reply_tokens,
    text_reply_tokens as text_reply_tokens,
)
from ._search import (
    contains as contains,
    count as count,
    tags_in_order as tags_in_order,
)
from ._stop import stop_string as stop_string, StopString as StopString
from ._token_bytes import byte_table as byte_table, TokenBytes as TokenBytes
from .answer import (
    equal as equal,
    fingerprint as fingerprint,
    LabelWords as LabelWords,
    normalize as normalize,
    parse_choice as parse_choice,
    parse_decimal as parse_decimal,
    parse_integer as parse_integer,
    parse_label as parse_label,
    parse_option as parse_option,
    parse_text as parse_text,
    ParsedDecimal as ParsedDecimal,
    ParsedInteger as ParsedInteger,
)
from .tokenizer import (
    AbstractTokenizer as AbstractTokenizer,
    HuggingFaceTokenizer as HuggingFaceTokenizer,
    json_schemas as json_schemas,
    load_tokenizer as load_tokenizer,
    SentencePieceTokenizer as SentencePieceTokenizer,
    TokenizerFiles as TokenizerFiles,
)
