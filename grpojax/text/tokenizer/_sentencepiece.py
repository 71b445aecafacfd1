"""Tokenizers of the sentencepiece library."""

import re
from typing import final

import numpy as np

from .._token_bytes import TokenIds
from ._abstract import AbstractTokenizer
from ._files import SENTENCEPIECE, TokenizerFiles


@final
class SentencePieceTokenizer(AbstractTokenizer):
    """A sentencepiece model.

    Sentencepiece encodes a control symbol in a text, such as `</s>`, as ordinary
    letters. Here it becomes its token, as chat templates expect, and each stretch
    between two of them is encoded as sentencepiece encodes a text: with the model's
    normalization and, if it has one, its dummy prefix.

    **Arguments:**

    - `files`: with a `tokenizer.model` among them.

    **Raises:** `ValueError` if sentencepiece cannot read the file.
    """

    def __init__(self, files: TokenizerFiles):
        import sentencepiece

        processor = sentencepiece.SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(files.contents[SENTENCEPIECE])
        except RuntimeError as error:
            raise ValueError(
                "A .model file must be a sentencepiece model. Received one that "
                f"sentencepiece cannot read ({error}). If its format is tiktoken's, "
                "use the tokenizer.json of the same model."
            ) from error
        self.files = files
        self.vocab_size = processor.get_piece_size()
        self._processor = processor
        controls = filter(processor.is_control, range(self.vocab_size))
        self._controls = {processor.id_to_piece(token): token for token in controls}
        # The longest first: a control symbol may be a prefix of another.
        names = sorted(self._controls, key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(map(re.escape, names))})")

    def encode(self, text: str) -> list[int]:
        tokens = []
        for part in self._split.split(text) if self._controls else [text]:
            if part in self._controls:
                tokens.append(self._controls[part])
            elif part:
                tokens.extend(self._processor.encode(part))
        return tokens

    def decode(self, ids: TokenIds) -> str:
        tokens = np.asarray(ids, np.int64).tolist()
        known = [token for token in tokens if 0 <= token < self.vocab_size]
        tags = {token for piece, token in self._controls.items() if self.is_tag(piece)}
        if tags.isdisjoint(known):
            return self._processor.decode(known)
        # Sentencepiece leaves control symbols out, and the space that it adds in front
        # of every text, so only the first of the stretches between two tags has none.
        starts = [i for i, token in enumerate(known) if token in tags]
        first = self._processor.decode(known[: starts[0]])
        rest = self.token_bytes.join(known[starts[0] :])
        return first + rest.decode("utf-8", errors="replace")

    def token_id(self, piece: str) -> int | None:
        token = self._processor.piece_to_id(piece)  # An unknown piece has an id, too.
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

    def pieces_as_bytes(self) -> list[bytes]:
        return [self._bytes(token) for token in range(self.vocab_size)]

    def _bytes(self, token: int) -> bytes:
        processor = self._processor
        if processor.is_control(token):
            piece = processor.id_to_piece(token)
            return piece.encode() if self.is_tag(piece) else b""
        if processor.is_byte(token):
            return bytes([int(processor.id_to_piece(token)[3:5], 16)])
        if processor.is_unknown(token):
            return processor.decode([token]).encode()
        return processor.id_to_piece(token).replace("\u2581", " ").encode()
