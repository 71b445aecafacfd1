"""The interface of a tokenizer."""

import abc
import copy
import datetime
import functools as ft
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from .._token_bytes import byte_table, TokenBytes, TokenIds
from ._files import TokenizerFiles
from ._special import named_tokens, ROLES
from ._template import render
from ._tools import json_schemas


class AbstractTokenizer(abc.ABC):
    """Text to tokens and back, on the host.

    A tokenizer is an ordinary Python object, not a pytree: a compiled program takes its
    `token_bytes`.
    """

    files: TokenizerFiles
    vocab_size: int  # The largest id plus one.
    today: datetime.date | None = None  # What templates are told; `None`: the clock's.
    tools: tuple[object, ...] = ()  # What templates offer; see `with_tools`.

    @abc.abstractmethod
    def encode(self, text: str) -> list[int]:
        """The tokens of a text; no token is added at its beginning or its end.

        A special token that is spelled out in the text becomes that token, so do not
        encode untrusted text together with your own.
        """

    def encode_prompt(self, text: str) -> list[int]:
        """The tokens of a text that is a prompt of its own, without a chat template.

        Those of `encode`, between the tokens that the tokenizer's files add to every
        text, as `tokenizer(text)` of `transformers` does: the first of Llama, Mistral
        and Gemma is their `bos_token`. Chat templates write them themselves.

        **Arguments:**

        - `text`: a whole prompt.

        **Returns:** the tokens; a subclass that adds none need not define this.
        """
        return self.encode(text)

    @abc.abstractmethod
    def decode(self, ids: TokenIds) -> str:
        """The text of tokens, as `token_bytes` has it.

        Special tokens other than tags, and ids without a token, are skipped.
        """

    @abc.abstractmethod
    def token_id(self, piece: str) -> int | None:
        """The id of one piece of the vocabulary, such as `"<|im_end|>"`."""

    @abc.abstractmethod
    def piece(self, token: int) -> str | None:
        """The piece of the vocabulary with an id: the inverse of `token_id`."""

    @abc.abstractmethod
    def own_special(self, role: str) -> int | None:
        """The id that the vocabulary file declares for a role, if it does.

        **Arguments:**

        - `role`: `"bos"`, `"eos"`, `"pad"` or `"unk"`.

        **Returns:** the id, or `None`.
        """

    @abc.abstractmethod
    def pieces_as_bytes(self) -> list[bytes]:
        """The bytes of every token, in order of id: the pieces of `token_bytes`."""

    def with_tools(self, tools: Sequence[object]) -> "AbstractTokenizer":
        """The tokenizer with tools that its chat template offers in every prompt.

        **Arguments:**

        - `tools`: as `chat_text` takes them.

        **Raises:** `ValueError` for a tool without a schema.
        """
        json_schemas(list(tools))
        found = copy.copy(self)
        found.tools = tuple(tools)
        return found

    def is_skipped(self, token: int) -> bool:
        """Whether `decode` skips a token: a special one, or an id without a token."""
        return token not in self._visible

    @ft.cached_property
    def _visible(self) -> frozenset[int]:
        return frozenset(i for i, x in enumerate(self.pieces_as_bytes()) if x)

    @ft.cached_property
    def token_bytes(self) -> TokenBytes:
        """The bytes of every token; cached.

        For every token sequence whose bytes are UTF-8,

            token_bytes.join(ids) == decode(ids).encode()

        A special token has bytes if it is a tag that the model writes, such as
        `<answer>`, `</answer>` or `<think>`; see `is_tag`. Others have none: those of
        a role (bos, eos, pad, unk), `<|im_end|>`, `[INST]`.

        There is one exception. A tokenizer that adds a space in front of every text (a
        "dummy prefix") removes it in `decode`: leading spaces of the first visible
        piece are then missing on the right-hand side. The table has them, since a
        completion does not begin a text.

        **Raises:** `ValueError` if the text of a token sequence is not the
        concatenation of the bytes of its tokens.
        """
        return byte_table(self.pieces_as_bytes())

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """The tokens that end a completion; empty if the files declare none.

        `eos_token_id` in generation_config.json (one id or several) and `eos_token` in
        tokenizer_config.json; if there is neither, `eos_token_id` in config.json, else
        the one of the vocabulary file.
        """
        return self._declared("eos")

    @property
    def pad_token(self) -> int | None:
        """The token for padding, if there is one.

        It may be an end token as well (SmolLM2's is), so it cannot serve as a mask.
        """
        return next(iter(self._declared("pad")), None)

    @property
    def bos_token(self) -> int | None:
        """The token that begins a text, if there is one; only templates add it."""
        return next(iter(self._declared("bos")), None)

    @property
    def has_chat_template(self) -> bool:
        """Whether the tokenizer's files have a chat template."""
        return any(self._templates.values())

    def chat_text(
        self,
        messages: Sequence[Mapping[str, object]],
        *,
        add_generation_prompt: bool = True,
        **variables: object,
    ) -> str:
        """A conversation rendered by the tokenizer's chat template.

        **Arguments:**

        - `messages`: mappings with a `"role"` and a `"content"`, oldest first.
        - `add_generation_prompt`: append the beginning of the assistant's turn.
        - `variables`: further variables of the template, such as `enable_thinking`, or
            `tools`: JSON schemas of functions, or Python functions with type hints and
            a docstring in Google's style. With `tools` the template is the one of the
            name `tool_use`, if there is one.

        **Returns:** the text.

        **Raises:** `ValueError` if the tokenizer has no chat template, or a message has
        no role, or a tool no schema, or the template refuses the conversation, fails,
        or does not end.
        """
        templates, tools = self._templates, variables.get("tools", self.tools or None)
        with_tools = tools is not None and "tool_use" in templates
        template = templates.get("tool_use" if with_tools else "default")
        if template is None:
            raise ValueError(
                "chat needs a chat template. Received a tokenizer without one: no "
                "chat_template.jinja and no default `chat_template` in "
                f"tokenizer_config.json{_listed(templates)}. Add one, or use `encode`."
            )
        if not all(
            isinstance(entry, Mapping) and "role" in entry for entry in messages
        ):
            raise ValueError(
                'chat takes a sequence of mappings with a "role" and a "content". '
                f"Received {messages!r}: wrap the text as "
                '[{"role": "user", "content": text}].'
            )
        # A key whose value is None is one that is not there.
        known = [{k: v for k, v in x.items() if v is not None} for x in messages]
        defaults = self._special_pieces | dict(tools=None, documents=None)
        conversation = dict(messages=known, add_generation_prompt=add_generation_prompt)
        if tools is not None:
            variables["tools"] = json_schemas(tools)
        return render(template, defaults | variables | conversation, self.today)

    def chat(
        self,
        messages: Sequence[Mapping[str, object]],
        *,
        add_generation_prompt: bool = True,
        **variables: object,
    ) -> list[int]:
        """The tokens of a conversation: `encode(chat_text(...))`."""
        return self.encode(
            self.chat_text(
                messages, add_generation_prompt=add_generation_prompt, **variables
            )
        )

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes the files that the tokenizer was loaded from, byte for byte.

        The vocabulary is written as `tokenizer.json` or `tokenizer.model`, so that
        `load_tokenizer(directory)` finds it.

        **Arguments:**

        - `directory`: created if it does not exist.
        """
        self.files.write(Path(directory))

    def is_tag(self, piece: str) -> bool:
        """Whether a special token is a tag that the model writes: a part of its text.

        That is a closing tag `</name>`, and `<name>` if there is a token `</name>` as
        well; none of sentencepiece's `<s>` and `</s>`, nor a token with a role, as its
        end or padding token. A name is a letter followed by letters, digits, `_`, `-`.
        """
        found = re.fullmatch(r"<(/?)([A-Za-z][A-Za-z0-9_-]*)>", piece)
        if found is None or found[2] == "s":
            return False
        closes = found[1] or self.token_id(f"</{found[2]}>") is not None
        return bool(closes) and self.token_id(piece) not in self._roles

    @ft.cached_property
    def _roles(self) -> set[int]:
        ids = {self.token_id(self._named[x]) for x in ROLES if x in self._named}
        for role in ("bos", "eos", "pad", "unk"):
            ids.update(self._declared(role))
        return {token for token in ids if token is not None}

    def _declared(self, role: str) -> tuple[int, ...]:
        """The ids with a role: generation_config.json's, then the tokenizer's."""
        generation = self.files.ids("generation_config.json", f"{role}_token_id")
        piece = self._named.get(f"{role}_token")
        token = None if piece is None else self.token_id(piece)
        tokenizer = () if token is None else (token,)
        if generation or tokenizer:
            return tuple(dict.fromkeys((*generation, *tokenizer)))
        model = self.files.ids("config.json", f"{role}_token_id")
        own = self.own_special(role)
        return model or (() if own is None else (own,))

    @ft.cached_property
    def _templates(self) -> dict[str, str]:
        return self.files.templates()

    @ft.cached_property
    def _named(self) -> dict[str, str]:
        """The pieces of the special tokens that the files name, by role."""
        return {role: x.content for role, x in named_tokens(self.files).items()}

    @ft.cached_property
    def _special_pieces(self) -> dict[str, str]:
        pieces = {}
        for role in ("bos", "eos", "pad", "unk"):
            own = self.own_special(role)
            piece = None if own is None else self.piece(own)
            if piece is not None:
                pieces[f"{role}_token"] = piece
        return pieces | self._named


def _listed(templates: Mapping[str, str]) -> str:
    return f", only {', '.join(map(repr, templates))}" if templates else ""
