"""Tokenizers of the `tokenizers` library."""

import functools as ft
import re
from collections.abc import Callable
from typing import final, TYPE_CHECKING

import numpy as np

from .._token_bytes import TokenIds
from ._abstract import AbstractTokenizer
from ._files import CONFIG, HUGGING_FACE, TokenizerFiles
from ._special import added_tokens, check_new


if TYPE_CHECKING:
    import tokenizers


@final
class HuggingFaceTokenizer(AbstractTokenizer):
    """A `tokenizer.json`, run by the `tokenizers` library.

    **Arguments:**

    - `files`: with a `tokenizer.json` among them. Tokens that the other files declare
        and it lacks are added to it.

    **Raises:** `ValueError` if `tokenizers` cannot read the file, or a token would get
    another id than the files declare.
    """

    def __init__(self, files: TokenizerFiles):
        import tokenizers

        try:
            tokenizer = tokenizers.Tokenizer.from_buffer(files.contents[HUGGING_FACE])
        except Exception as error:  # The library raises nothing more precise.
            raise ValueError(
                "A tokenizer.json must be readable by the installed `tokenizers`. "
                f"Received one with an error: {error}. Upgrade `tokenizers`, or check "
                "the file."
            ) from error
        # Some files carry the batch settings of the run that wrote them.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        _add_tokens(tokenizer, files)
        split = files.read_json(CONFIG).get("split_special_tokens")
        tokenizer.encode_special_tokens = bool(split)
        self.files = files
        self.vocab_size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        self._tokenizer = tokenizer

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_prompt(self, text: str) -> list[int]:
        # By the post-processor of tokenizer.json: beside such a file `transformers`
        # ignores `add_bos_token` and `add_eos_token`.
        return self._tokenizer.encode(text, add_special_tokens=True).ids

    def decode(self, ids: TokenIds) -> str:
        tokens = np.asarray(ids, np.int64).tolist()
        shown = [
            token
            for token in tokens
            if 0 <= token < self.vocab_size and token not in self._hidden
        ]
        return self._tokenizer.decode(shown, skip_special_tokens=False)

    def token_id(self, piece: str) -> int | None:
        return self._tokenizer.token_to_id(piece)

    def piece(self, token: int) -> str | None:
        known = 0 <= token < self.vocab_size
        return self._tokenizer.id_to_token(token) if known else None

    def own_special(self, role: str) -> int | None:
        del role  # tokenizer.json does not declare the roles of special tokens.
        return None

    def pieces_as_bytes(self) -> list[bytes]:
        to_bytes = _decoder(self.files.read_json(HUGGING_FACE).get("decoder"))
        pieces = enumerate(map(self.piece, range(self.vocab_size)))
        return [
            b"" if piece is None or token in self._hidden else to_bytes(piece)
            for token, piece in pieces
        ]

    @ft.cached_property
    def _hidden(self) -> frozenset[int]:
        """The special tokens that are no part of the text."""
        added = self._tokenizer.get_added_tokens_decoder().items()
        special = {token: x.content for token, x in added if x.special}
        return frozenset(token for token, x in special.items() if not self.is_tag(x))


def _add_tokens(tokenizer: "tokenizers.Tokenizer", files: TokenizerFiles) -> None:
    """Adds the tokens that a tokenizer lacks, or only has in its vocabulary."""
    import tokenizers

    there = {x.content for x in tokenizer.get_added_tokens_decoder().values()}
    # One with an id is added again: its flags are the declared ones.
    missing = [
        token
        for token in added_tokens(files)
        if token.id is not None or token.content not in there
    ]
    new = [x for x in missing if tokenizer.token_to_id(x.content) is None]
    flags = ("special", "normalized", "lstrip", "rstrip", "single_word")
    tokenizer.add_tokens(
        [
            tokenizers.AddedToken(x.content, **{flag: vars(x)[flag] for flag in flags})
            for x in missing
        ]
    )
    for token in new:
        check_new(token, tokenizer.token_to_id(token.content), files)


def _decoder(declared: object) -> Callable[[str], bytes]:
    """A function from one piece inside a text to its bytes."""
    steps = _steps(declared)
    unknown = [step for i, step in enumerate(steps) if not _is_known(step, steps[:i])]
    if unknown or not steps:
        raise ValueError(
            "The text of tokens follows from their bytes for byte-level decoders "
            "(ByteLevel) and for sentencepiece's (Metaspace, Replace of a string, "
            "ByteFallback, Fuse, then Strip at the left). Received a tokenizer.json "
            f"with {unknown or 'no decoder'}: use a tokenizer of one of these kinds."
        )

    def to_bytes(piece: str) -> bytes:
        for step in steps:
            if step["type"] == "ByteLevel":
                return _byte_level(piece)
            if step["type"] == "ByteFallback" and _is_byte(piece):
                return bytes([int(piece[3:5], 16)])
            if step["type"] == "Metaspace":
                piece = piece.replace(step["replacement"], " ")
            if step["type"] == "Replace":
                piece = piece.replace(step["pattern"]["String"], step["content"])
        return piece.encode()

    return to_bytes


def _is_known(step: dict, before: list[dict]) -> bool:
    if step["type"] == "Replace":
        return "String" in step["pattern"]
    if step["type"] == "Strip":
        # After `Fuse` has joined the text to one piece, `Strip` removes the dummy
        # prefix. Before it, `Strip` would apply to every piece.
        return step["stop"] == 0 and any(other["type"] == "Fuse" for other in before)
    return step["type"] in ("ByteLevel", "Metaspace", "ByteFallback", "Fuse")


def _steps(declared: object) -> list[dict]:
    if not isinstance(declared, dict):
        return []
    if declared["type"] == "Sequence":
        return [step for inner in declared["decoders"] for step in _steps(inner)]
    return [declared]


def _is_byte(piece: str) -> bool:
    return re.fullmatch(r"<0x[0-9A-Fa-f]{2}>", piece) is not None


@ft.lru_cache(maxsize=1)
def _byte_of_character() -> dict[str, int]:
    # GPT-2 maps each byte to one printable character: itself if it is printable, else
    # the next one from U+0100.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + i): byte for i, byte in enumerate(others)
    }


def _byte_level(piece: str) -> bytes:
    table = _byte_of_character()
    if all(character in table for character in piece):
        return bytes(table[character] for character in piece)
    return piece.encode()  # An added token, which is not mapped.
