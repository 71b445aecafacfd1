import functools as ft
import re
from typing import final

import numpy as np

from ._files import SENTENCEPIECE, TokenizerFiles
from ._token_bytes import byte_table, TokenBytes
from ._tokenizer import AbstractTokenizer, TokenIds


@final
class SentencePieceTokenizer(AbstractTokenizer):
    """A sentencepiece model.

    Sentencepiece itself reads a control symbol such as `</s>` as ordinary letters. Here
    one that is written out in a text becomes its token, as chat templates expect, and
    each stretch between two of them is encoded as sentencepiece encodes a text: with
    the model's own normalization and, if it has one, its dummy prefix.

    **Arguments**

    - `files`: with a `tokenizer.model` among them.

    **Raises**

    `ValueError` when sentencepiece cannot read the file.
    """

    def __init__(self, files: TokenizerFiles):
        import sentencepiece

        processor = sentencepiece.SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(files.contents[SENTENCEPIECE])
        except RuntimeError as error:
            raise ValueError(
                "A .model file must be a sentencepiece model, and sentencepiece cannot "
                f"read this one ({error}). If its format is tiktoken's, use the "
                "tokenizer.json of the same model."
            ) from error
        self.files = files
        self._processor = processor

    @ft.cached_property
    def _controls(self) -> dict[str, int]:
        tokens = filter(self._processor.is_control, range(self.vocab_size))
        return {self.piece(token): token for token in tokens}

    def encode(self, text: str) -> list[int]:
        # The longest first: one control symbol may begin another.
        names = sorted(self._controls, key=len, reverse=True)
        pattern = "|".join(map(re.escape, names))
        tokens = []
        for part in re.split(f"({pattern})", text) if names else [text]:
            if part in self._controls:
                tokens.append(self._controls[part])
            elif part:
                tokens.extend(self._processor.encode(part))
        return tokens

    def decode(self, ids: TokenIds) -> str:
        tokens = np.asarray(ids, np.int64).tolist()
        known = [token for token in tokens if 0 <= token < self.vocab_size]
        return self._processor.decode(known)

    def token_id(self, piece: str) -> int | None:
        token = self._processor.piece_to_id(piece)  # The unknown token's, if unknown.
        return token if self.piece(token) == piece else None

    def piece(self, token: int) -> str | None:
        known = 0 <= token < self.vocab_size
        return self._processor.id_to_piece(token) if known else None

    def own_special(self, role: str) -> int | None:
        processor = self._processor
        ids = {
            "bos": processor.bos_id(),
            "eos": processor.eos_id(),
            "pad": processor.pad_id(),
            "unk": processor.unk_id(),
        }
        return None if ids[role] < 0 else ids[role]

    @ft.cached_property
    def vocab_size(self) -> int:
        return self._processor.get_piece_size()

    @ft.cached_property
    def token_bytes(self) -> TokenBytes:
        return byte_table([self._bytes(token) for token in range(self.vocab_size)])

    def _bytes(self, token: int) -> bytes:
        if self._processor.is_control(token):
            return b""
        if self._processor.is_byte(token):
            return bytes([int(self.piece(token)[3:5], 16)])
        if self._processor.is_unknown(token):
            return self._processor.decode([token]).encode()
        return self.piece(token).replace("\u2581", " ").encode()
