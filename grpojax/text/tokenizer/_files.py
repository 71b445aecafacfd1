"""The files of a tokenizer, and where they are read from."""

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path


HUGGING_FACE = "tokenizer.json"
SENTENCEPIECE = "tokenizer.model"

# What describes a tokenizer besides its vocabulary. `config.json` is read for the ids
# that it declares but never written: it belongs to the model.
_DESCRIPTIONS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
)
_MODEL_CONFIG = "config.json"


@dataclasses.dataclass(frozen=True)
class TokenizerFiles:
    """The files of one tokenizer, in memory.

    **Fields:**

    - `contents`: from file names to bytes, with the names of a model directory:
        `tokenizer.json` or `tokenizer.model`, and any of `tokenizer_config.json`,
        `special_tokens_map.json`, `generation_config.json`, `chat_template.jinja`,
        `config.json`.
    """

    contents: Mapping[str, bytes]

    def read_json(self, name: str) -> dict[str, object]:
        """The JSON object in file `name`; empty if there is no such file.

        **Raises:** `ValueError` with the name of a file that holds none.
        """
        try:
            values = json.loads(self.contents.get(name, b"{}"))
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"A tokenizer's {name} is a JSON object. Received one that cannot be "
                f"read ({error}): copy or download it again."
            ) from error
        if not isinstance(values, dict):
            raise ValueError(
                f"A tokenizer's {name} is a JSON object. Received a "
                f"{type(values).__name__}: copy or download it again."
            )
        return values

    def special(self, role: str) -> str | None:
        """The special token in a role such as `"eos_token"`, if one is declared."""
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            declared = self.read_json(name).get(role)
            if isinstance(declared, dict):  # An `AddedToken`, written out in full.
                declared = declared.get("content")
            if isinstance(declared, str):
                return declared
        return None

    def ids(self, name: str, role: str) -> tuple[int, ...]:
        """The ids that file `name` declares for a role such as `"eos_token_id"`."""
        declared = self.read_json(name).get(role)
        if isinstance(declared, int):
            return (declared,)
        listed = declared if isinstance(declared, list) else []
        if not all(type(token) is int for token in listed):
            raise ValueError(
                f"`{role}` in a tokenizer's {name} is an id, or a list of them. "
                f"Received {declared!r:.80}: correct the file."
            )
        return tuple(listed)

    def template(self) -> str | None:
        """The jinja source of the chat template, if there is one."""
        if "chat_template.jinja" in self.contents:
            try:
                return self.contents["chat_template.jinja"].decode()
            except UnicodeDecodeError as error:
                raise ValueError(
                    "A tokenizer's chat_template.jinja is UTF-8. Received one that is "
                    f"not ({error}): save it as UTF-8."
                ) from error
        declared = self.read_json("tokenizer_config.json").get("chat_template")
        if isinstance(declared, list):  # Several templates, by name.
            named = [x for x in declared if isinstance(x, dict)]
            declared = {x.get("name"): x.get("template") for x in named}.get("default")
        return declared if isinstance(declared, str) else None

    def write(self, directory: Path) -> None:
        """Writes every file but the model's `config.json`, byte for byte."""
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in self.contents.items():
            if name != _MODEL_CONFIG:
                (directory / name).write_bytes(content)


def read_files(path: str | os.PathLike[str]) -> TokenizerFiles:
    """The tokenizer files of a directory, of one file, or of a model on the hub."""
    local = Path(path)
    if local.is_file():
        return _read_file(local)
    if local.is_dir():
        return _read_directory(local)
    if isinstance(path, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", path):
        return _read_directory(_download(path))
    raise FileNotFoundError(
        "load_tokenizer(path) needs a directory, a .json or .model file, or the id of "
        f"a model on the Hugging Face hub (`organization/name`). Received {str(path)!r}"
        ", which is none of these: check the path."
    )


def _read_file(path: Path) -> TokenizerFiles:
    names = {".json": HUGGING_FACE, ".model": SENTENCEPIECE}
    if path.suffix not in names:
        raise ValueError(
            "A tokenizer file ends in .json (the `tokenizers` library) or in .model "
            f"(sentencepiece). Received {str(path)!r}: rename it, or pass its "
            "directory."
        )
    return TokenizerFiles({names[path.suffix]: path.read_bytes()})


def _read_directory(directory: Path) -> TokenizerFiles:
    models = sorted(directory.glob("*.model"))
    if (directory / HUGGING_FACE).is_file():
        contents = {HUGGING_FACE: (directory / HUGGING_FACE).read_bytes()}
    elif (directory / SENTENCEPIECE).is_file():
        contents = {SENTENCEPIECE: (directory / SENTENCEPIECE).read_bytes()}
    elif len(models) == 1:
        contents = {SENTENCEPIECE: models[0].read_bytes()}
    else:
        raise FileNotFoundError(
            "A tokenizer's directory holds tokenizer.json, tokenizer.model or exactly "
            f"one *.model file. {str(directory)!r} holds neither of the first two and "
            f"{len(models)} *.model files: pass the file itself."
        )
    for name in (*_DESCRIPTIONS, _MODEL_CONFIG):
        if (directory / name).is_file():
            contents[name] = (directory / name).read_bytes()
    return TokenizerFiles(contents)


def _download(name: str) -> Path:
    import huggingface_hub

    wanted = [HUGGING_FACE, "*.model", *_DESCRIPTIONS, _MODEL_CONFIG]
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=wanted))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"load_tokenizer({name!r}): there is no such file or directory here, and "
            f"no model of that name from the Hugging Face hub ({error}). Check the "
            "name and the connection, or pass a local directory."
        ) from error
