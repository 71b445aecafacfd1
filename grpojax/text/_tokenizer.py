import abc
import functools as ft
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ._files import TokenizerFiles
from ._template import render
from ._token_bytes import byte_table, TokenBytes, TokenIds


class AbstractTokenizer(abc.ABC):
    """Text to tokens and back, on the host.

    A tokenizer is an ordinary Python object and no pytree: what the compiled program
    needs of it is `token_bytes`, which is one.
    """

    files: TokenizerFiles
    vocab_size: int  # The largest id plus one.

    @abc.abstractmethod
    def encode(self, text: str) -> list[int]:
        """The tokens of a text; no token is added at its beginning or its end.

        A special token that is written out in the text becomes that token, so do not
        encode text from strangers next to text of your own.
        """

    @abc.abstractmethod
    def decode(self, ids: TokenIds) -> str:
        """The text of tokens; special tokens and ids without a token are skipped."""

    @abc.abstractmethod
    def token_id(self, piece: str) -> int | None:
        """The id of one piece of the vocabulary, such as `"<|im_end|>"`."""

    @abc.abstractmethod
    def piece(self, token: int) -> str | None:
        """The piece of the vocabulary with that id: what `token_id` inverts."""

    @abc.abstractmethod
    def own_special(self, role: str) -> int | None:
        """The id that the vocabulary file itself gives to `"bos"`, `"eos"`, `"pad"` or
        `"unk"`, if it does."""

    @abc.abstractmethod
    def pieces_as_bytes(self) -> list[bytes]:
        """The bytes of every token, in order of id: what `token_bytes` is made of."""

    @ft.cached_property
    def token_bytes(self) -> TokenBytes:
        """The bytes of every token, made once.

        For every token sequence whose bytes are UTF-8,

            token_bytes.join(ids) == decode(ids).encode()

        with one exception. A tokenizer that puts a space in front of every text (a
        "dummy prefix") has `decode` take it away again: leading spaces of the first
        visible piece are then missing from the right-hand side. The table keeps them,
        for a completion does not begin a text.

        **Raises**

        `ValueError` when the text of tokens does not follow from bytes of their own.
        """
        return byte_table(self.pieces_as_bytes())

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """The tokens that end a completion; empty when the files name none.

        `eos_token_id` in generation_config.json (one id or several), else `eos_token`
        in tokenizer_config.json, else `eos_token_id` in config.json, else what the
        vocabulary file says.
        """
        return self._declared("eos")

    @property
    def pad_token(self) -> int | None:
        """The token that fills a batch up, if there is one.

        It may be an end token as well (SmolLM2's is), so it never tells what was said.
        """
        return next(iter(self._declared("pad")), None)

    @property
    def bos_token(self) -> int | None:
        """The token that begins a text, if there is one; only templates write it."""
        return next(iter(self._declared("bos")), None)

    def chat_text(
        self,
        messages: Sequence[Mapping[str, object]],
        *,
        add_generation_prompt: bool = True,
        **variables: object,
    ) -> str:
        """Renders a conversation with the tokenizer's chat template.

        **Arguments**

        - `messages`: mappings with a `"role"` and a `"content"`, oldest first.
        - `add_generation_prompt`: end with the words that open the assistant's turn.
        - `variables`: further variables of the template, such as `tools` or
            `enable_thinking`.

        **Raises**

        `ValueError` when the tokenizer has no chat template, or when a message has no
        role; `jinja2.TemplateError` when the template refuses the conversation.
        """
        if self._template is None:
            raise ValueError(
                "chat needs a chat template, and this tokenizer came with none: no "
                "chat_template.jinja and no default `chat_template` in "
                "tokenizer_config.json. Add one, or use `encode`, which needs none."
            )
        if not all(
            isinstance(entry, Mapping) and "role" in entry for entry in messages
        ):
            raise ValueError(
                'chat takes a sequence of mappings with a "role" and a "content". '
                f"Received {messages!r}: wrap the text as "
                '[{"role": "user", "content": text}].'
            )
        defaults = self._special_pieces | dict(tools=None, documents=None)
        conversation = dict(
            messages=messages, add_generation_prompt=add_generation_prompt
        )
        return render(self._template, defaults | variables | conversation)

    def chat(
        self,
        messages: Sequence[Mapping[str, object]],
        *,
        add_generation_prompt: bool = True,
        **variables: object,
    ) -> list[int]:
        """The tokens of a conversation: `encode` of `chat_text`, with its arguments."""
        return self.encode(
            self.chat_text(
                messages, add_generation_prompt=add_generation_prompt, **variables
            )
        )

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes the files that the tokenizer was loaded from, byte for byte.

        The vocabulary is called `tokenizer.json` or `tokenizer.model` whatever it was
        called before, so that `load_tokenizer(directory)` finds it.
        """
        self.files.write(Path(directory))

    def _declared(self, role: str) -> tuple[int, ...]:
        generation = self.files.ids("generation_config.json", f"{role}_token_id")
        if generation:
            return generation
        piece = self.files.special(f"{role}_token")
        token = None if piece is None else self.token_id(piece)
        if token is not None:
            return (token,)
        model = self.files.ids("config.json", f"{role}_token_id")
        if model:
            return model
        own = self.own_special(role)
        return () if own is None else (own,)

    @ft.cached_property
    def _template(self) -> str | None:
        return self.files.template()

    @ft.cached_property
    def _special_pieces(self) -> dict[str, str]:
        pieces = {}
        for role in ("bos", "eos", "pad", "unk"):
            piece, own = self.files.special(f"{role}_token"), self.own_special(role)
            if piece is None and own is not None:
                piece = self.piece(own)
            if piece is not None:
                pieces[f"{role}_token"] = piece
        return pieces
