"""The special and added tokens that a tokenizer's files declare."""

import dataclasses
from collections.abc import Mapping

from ._files import CONFIG, TokenizerFiles


ROLES = tuple(
    f"{role}_token" for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
)
"""What a special token may be declared as; a model may have others, `image_token`."""


@dataclasses.dataclass(frozen=True)
class AddedToken:
    """A token beside the vocabulary, with the fields of `tokenizers.AddedToken`.

    **Fields:**

    - `content`: its text.
    - `special`: whether it is no part of a text that is decoded.
    - `normalized`: whether it is searched in the normalized text.
    - `lstrip`, `rstrip`: whether it takes the space at its left, or right.
    - `single_word`: whether it is not found inside of words.
    - `id`: the id that the files declare for it, if any do.
    """

    content: str
    special: bool = True
    normalized: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    id: int | None = None


def named_tokens(files: TokenizerFiles) -> dict[str, AddedToken]:
    """The special tokens by role: those of `ROLES`, then those of the model's own."""
    values = _declared(files)
    extra = values.get("extra_special_tokens")
    own = extra if isinstance(extra, Mapping) else {}
    named = {
        role: _token(role, value, special=True)
        for role, value in {**values, **own}.items()
        if (role.endswith("_token") or role in own) and isinstance(value, str | dict)
    }
    first = [role for role in ROLES if role in named]
    return {role: named[role] for role in (*first, *named)}


def added_tokens(files: TokenizerFiles) -> list[AddedToken]:
    """The tokens that tokenizer_config.json and added_tokens.json add, in this order.

    Those with an id by their ids, then those with a role, then the others.

    **Raises:** `ValueError` for a declaration that is none.
    """
    named = list(named_tokens(files).values())
    extra = _declared(files).get("extra_special_tokens") or []
    listed = extra if isinstance(extra, list) else []
    others = [_token("extra_special_tokens", x) for x in listed]
    with_id = _with_id(files, {token.content for token in (*named, *others)})
    # The flags of a token are those of its first declaration.
    every: dict[str, AddedToken] = {}
    for token in (*with_id, *named, *others):
        every.setdefault(token.content, token)
    roles = {token.content for token in named}
    return [
        dataclasses.replace(token, special=token.special or token.content in roles)
        for token in every.values()
    ]


def check_new(token: AddedToken, id: int | None, files: TokenizerFiles) -> None:
    """Checks a token that is added to a vocabulary, and gets an id there.

    **Raises:** `ValueError` if the files declare another id, or if it is the end token,
    which the model has never seen.
    """
    if token.id not in (None, id):
        raise ValueError(
            "A token beside the vocabulary has the next free id. Received "
            f"{token.content!r} with the id {token.id} in a tokenizer's files, and the "
            f"next one is {id}: take all files from the same model."
        )
    end = named_tokens(files).get("eos_token")
    if token.id is None and end is not None and token.content == end.content:
        raise ValueError(
            f"The end token is in the vocabulary. Received `eos_token` = "
            f"{token.content!r}, which no file has an id for: a completion would never "
            f"end. Correct {CONFIG}, or take all files from the same model."
        )


def _with_id(files: TokenizerFiles, special: set[str]) -> list[AddedToken]:
    config = files.read_json(CONFIG)
    if "added_tokens_decoder" in config:
        listed = config["added_tokens_decoder"]
        found = listed.items() if isinstance(listed, Mapping) else []
        tokens = [_token("added_tokens_decoder", x, id=int(i)) for i, x in found]
    else:
        tokens = [
            AddedToken(x, x in special, normalized=x not in special, id=i)
            for x, i in files.read_json("added_tokens.json").items()
            if isinstance(i, int)
        ]
    return sorted(tokens, key=lambda token: token.id or 0)


def _declared(files: TokenizerFiles) -> dict[str, object]:
    """tokenizer_config.json, with what older versions wrote beside it."""
    values = files.read_json(CONFIG)
    if "added_tokens_decoder" not in values:
        values |= files.read_json("special_tokens_map.json")
    if not values.get("extra_special_tokens"):
        values["extra_special_tokens"] = values.get("additional_special_tokens")
    return values


def _token(
    where: str, value: object, *, special: bool | None = None, id: int | None = None
) -> AddedToken:
    """A token that is declared by its text, or by its fields."""
    if isinstance(value, str):
        return AddedToken(value, id=id)
    fields = value if isinstance(value, Mapping) else {}
    content = fields.get("content")
    if not isinstance(content, str):
        raise ValueError(
            f"A token in a tokenizer's files is a text, or has a `content`. Received "
            f"{value!r:.80} in `{where}`: correct the file."
        )
    flags = {
        name: bool(fields[name])
        for name in ("special", "normalized", "lstrip", "rstrip", "single_word")
        if name in fields
    }
    special = flags.setdefault("special", False) if special is None else special
    flags.setdefault("normalized", not special)
    return AddedToken(content, **flags | {"special": special}, id=id)
