"""A tokenizer whose vocabulary fits on a page."""

import numpy as np

from grpojax.text import AbstractTokenizer, TokenizerFiles


PIECES = [
    b"",  # The end token.
    *(bytes([byte]) for byte in range(256)),
    b"####",
    b"#### ",
    b" 1",
    b"<answer>",
    b"</answer>",
    b"</answer>\n",
    b"\n\n",
    b"Question",
    b" " * 20,
]


class ByteTokenizer(AbstractTokenizer):
    """Bytes, and some longer pieces of which the longest match is taken."""

    def __init__(self, template: str = ""):
        self.files = TokenizerFiles({"chat_template.jinja": template.encode()})

    def encode(self, text):
        data, tokens = text.encode(), []
        while data:
            token = max(
                (
                    i
                    for i, piece in enumerate(PIECES)
                    if piece and data.startswith(piece)
                ),
                key=lambda i: len(PIECES[i]),
            )
            tokens.append(token)
            data = data[len(PIECES[token]) :]
        return tokens

    def decode(self, ids):
        return b"".join(PIECES[token] for token in np.asarray(ids)).decode(
            errors="replace"
        )

    def token_id(self, piece):
        known = piece.encode()
        return PIECES.index(known) if known in PIECES else None

    def piece(self, token):
        return PIECES[token].decode()

    def own_special(self, role):
        return 0 if role == "eos" else None

    @property
    def vocab_size(self):
        return len(PIECES)

    def pieces_as_bytes(self):
        return PIECES
