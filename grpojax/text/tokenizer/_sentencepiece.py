"""Tokenizers of the sentencepiece library."""

import functools as ft
import re
from collections.abc import Mapping
from typing import final, TYPE_CHECKING

import numpy as np

from .._token_bytes import TokenIds
from ._abstract import AbstractTokenizer
from ._files import CONFIG, SENTENCEPIECE, TokenizerFiles
from ._special import added_tokens, check_new


if TYPE_CHECKING:
    import sentencepiece


@final
class SentencePieceTokenizer(AbstractTokenizer):
    """A sentencepiece model.

    Sentencepiece encodes a control symbol in a text, such as `</s>`, as ordinary
    letters. Here it becomes its token, as chat templates expect, as do the tokens that
    the other files add, and each stretch between two of them is encoded as
    sentencepiece encodes a text: with the model's normalization and, if it has one, its
    dummy prefix. A `LlamaTokenizer`, or one whose tokenizer_config.json has `legacy`,
    puts a space before every stretch that has none, and if `legacy` is false, its
    default, before the first one only.

    **Arguments:**

    - `files`: with a `tokenizer.model` among them. Tokens that the other files declare
        and it lacks are added to it.

    **Raises:** `ValueError` if sentencepiece cannot read the file, or a token would get
    another id than the files declare.
    """

    def __init__(self, files: TokenizerFiles):
        self.files, content = files, files.contents[SENTENCEPIECE]
        self._processor = processor = _load(content)
        self._added = _new_tokens(processor, files)
        self._size = processor.get_piece_size()
        self.vocab_size = self._size + len(self._added)
        config = files.read_json(CONFIG)
        self._prefix = _prefix(config)
        self._encoder = processor
        if self._prefix is not None:
            self._encoder = _load(content + _NO_DUMMY_PREFIX)
        if self._prefix == "never":
            self._processor = self._encoder  # Nothing to remove in decoding.
        # A token that is named in a text is that token, unless it is special and the
        # files say otherwise.
        split = bool(config.get("split_special_tokens"))
        controls = filter(processor.is_control, range(self._size))
        special = {processor.id_to_piece(token): token for token in controls}
        if processor.unk_id() >= 0:
            special[processor.id_to_piece(processor.unk_id())] = processor.unk_id()
        ordinary: dict[str, int] = {}
        for token in added_tokens(files):
            kind = special if token.special else ordinary
            kind[token.content] = self._id(token.content)
        self._special = special
        self._controls = ordinary if split else special | ordinary
        # The longest first: a control symbol may be a prefix of another.
        names = sorted(self._controls, key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(map(re.escape, names))})")

    def encode(self, text: str) -> list[int]:
        tokens: list[int] = []
        prefixes = {"first": 1, "always": len(text)}.get(self._prefix or "", 0)
        for part in self._split.split(text) if self._controls else [text]:
            if part in self._controls:
                tokens.append(self._controls[part])
            elif part:
                has_none = prefixes > 0 and part[0] not in " \u2581"
                tokens.extend(self._encoder.encode(" " + part if has_none else part))
            prefixes -= bool(part)
        return tokens

    def encode_prompt(self, text: str) -> list[int]:
        config = self.files.read_json(CONFIG)

        def added(role: str) -> list[int]:
            piece = self._special_pieces.get(f"{role}_token", "")
            token = self.token_id(piece) if config.get(f"add_{role}_token") else None
            return [] if token is None else [token]

        return [*added("bos"), *self.encode(text), *added("eos")]

    def decode(self, ids: TokenIds) -> str:
        tokens = np.asarray(ids, np.int64).tolist()
        known = [
            x for x in tokens if 0 <= x < self.vocab_size and x not in self._hidden
        ]
        # Sentencepiece knows no added tokens, and leaves control symbols out, and the
        # space that it adds in front of every text, so only the first of the stretches
        # between two of these has none.
        apart = [i for i, x in enumerate(known) if x in self._apart]
        if not apart:
            return self._processor.decode(known)
        first = self._processor.decode(known[: apart[0]])
        rest = self.token_bytes.join(known[apart[0] :])
        return first + rest.decode("utf-8", errors="replace")

    def token_id(self, piece: str) -> int | None:
        token = self._id(piece)
        return token if self.piece(token) == piece else None

    def piece(self, token: int) -> str | None:
        if not 0 <= token < self.vocab_size:
            return None
        if token >= self._size:
            return self._added[token - self._size]
        return self._processor.id_to_piece(token)

    def _id(self, piece: str) -> int:
        if piece in self._added:
            return self._size + self._added.index(piece)
        return self._processor.piece_to_id(piece)  # An unknown piece has an id, too.

    @ft.cached_property
    def _hidden(self) -> frozenset[int]:
        """The special tokens that are no part of the text."""
        special = self._special.items()
        return frozenset(token for piece, token in special if not self.is_tag(piece))

    @ft.cached_property
    def _apart(self) -> frozenset[int]:
        """The tokens that are text, and not sentencepiece's."""
        tags = {x for piece, x in self._special.items() if self.is_tag(piece)}
        return frozenset(tags | set(range(self._size, self.vocab_size)) - self._hidden)

    def own_special(self, role: str) -> int | None:
        processor = self._processor
        ids = {
            "bos": processor.bos_id(),
            "eos": processor.eos_id(),
            "pad": processor.pad_id(),
            "unk": processor.unk_id(),
        }
        return None if ids[role] < 0 else ids[role]

    def pieces_as_bytes(self) -> list[bytes]:
        return [self._bytes(token) for token in range(self.vocab_size)]

    def _bytes(self, token: int) -> bytes:
        processor = self._processor
        if token in self._hidden:
            return b""
        if token in self._apart:
            return str(self.piece(token)).encode()
        if processor.is_byte(token):
            return bytes([int(processor.id_to_piece(token)[3:5], 16)])
        return processor.id_to_piece(token).replace("\u2581", " ").encode()


def _prefix(config: Mapping[str, object]) -> str | None:
    """Where a space is put in front of a text; `None`: as the model itself has it."""
    is_llama = "Llama" in str(config.get("tokenizer_class"))
    if is_llama and config.get("add_prefix_space") is False:
        return "never"
    if is_llama or "legacy" in config:
        return "always" if config.get("legacy", False) else "first"
    return None


# A serialized model is a protobuf: what is appended to one overwrites its fields, here
# `normalizer_spec.add_dummy_prefix`.
_NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"


def _load(content: bytes) -> "sentencepiece.SentencePieceProcessor":
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(content)
    except RuntimeError as error:
        raise ValueError(
            "A .model file must be a sentencepiece model. Received one that "
            f"sentencepiece cannot read ({error}). If its format is tiktoken's, "
            "use the tokenizer.json of the same model."
        ) from error
    return processor


def _new_tokens(
    processor: "sentencepiece.SentencePieceProcessor", files: TokenizerFiles
) -> list[str]:
    """The tokens that the files add to a model, whose ids follow its own."""
    new: list[str] = []
    for token in added_tokens(files):
        if processor.id_to_piece(processor.piece_to_id(token.content)) == token.content:
            continue
        check_new(token, processor.get_piece_size() + len(new), files)
        new.append(token.content)
        if token.lstrip or token.rstrip or token.single_word:
            raise ValueError(
                "A token that is added to a sentencepiece model is found as it is "
                f"written. Received {token.content!r} with `lstrip`, `rstrip` or "
                "`single_word`, which is not implemented: save the tokenizer with "
                "`transformers` as a tokenizer.json."
            )
    return new
