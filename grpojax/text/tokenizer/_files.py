"""The files of a tokenizer, and where they are read from."""

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from ..._extras import optional


HUGGING_FACE = "tokenizer.json"
SENTENCEPIECE = "tokenizer.model"

CONFIG = "tokenizer_config.json"

_TEMPLATE = "chat_template.jinja"
_TEMPLATES = "additional_chat_templates"
# What describes a tokenizer besides its vocabulary.
_DESCRIPTIONS = (
    CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    _TEMPLATE,
)
# Other forms of a vocabulary: kept for the libraries that read them.
_FORMS = ("vocab.json", "merges.txt", "vocab.txt", "tekken.json", "tiktoken.model")
# Read for the ids that it declares but never written: it belongs to the model.
_MODEL_CONFIG = "config.json"


@dataclasses.dataclass(frozen=True)
class TokenizerFiles:
    """The files of one tokenizer, in memory.

    **Fields:**

    - `contents`: from file names to bytes, with the names of a model directory:
        `tokenizer.json` or `tokenizer.model`, and any of `tokenizer_config.json`,
        `special_tokens_map.json`, `added_tokens.json`, `generation_config.json`,
        `chat_template.jinja`, `additional_chat_templates/NAME.jinja`, `config.json`.
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

    def templates(self) -> dict[str, str]:
        """The jinja sources of the chat templates by name; the first is `"default"`."""
        files = {
            Path(name).stem: name
            for name in self.contents
            if name.startswith(f"{_TEMPLATES}/")
        }
        if _TEMPLATE in self.contents:
            files["default"] = _TEMPLATE
        if files:
            return {stem: self._read_text(name) for stem, name in files.items()}
        declared = self.read_json(CONFIG).get("chat_template")
        if isinstance(declared, list):  # Several templates, by name.
            named = [x for x in declared if isinstance(x, dict)]
            found = {str(x.get("name")): x.get("template") for x in named}
        else:
            found = {"default": declared}
        return {name: x for name, x in found.items() if isinstance(x, str)}

    def _read_text(self, name: str) -> str:
        try:
            return self.contents[name].decode()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"A tokenizer's {name} is UTF-8. Received one that is "
                f"not ({error}): save it as UTF-8."
            ) from error

    def write(self, directory: Path) -> None:
        """Writes every file but the model's `config.json`, byte for byte."""
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in self.contents.items():
            if name != _MODEL_CONFIG:
                (directory / name).parent.mkdir(exist_ok=True)
                (directory / name).write_bytes(content)
        for path in self.stale(directory):
            path.unlink()

    def stale(self, directory: Path) -> list[Path]:
        """The files of another tokenizer in a directory that these do not replace."""
        generation = "generation_config.json"  # The model's, too.
        known = [HUGGING_FACE, SENTENCEPIECE, *_DESCRIPTIONS, *_FORMS]
        paths = [directory / name for name in known if name != generation]
        paths += directory.glob(f"{_TEMPLATES}/*.jinja")
        written = {directory / name for name in self.contents}
        return [path for path in paths if path.is_file() and path not in written]


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
    for name in (SENTENCEPIECE, *_DESCRIPTIONS, *_FORMS, _MODEL_CONFIG):
        if (directory / name).is_file():
            contents[name] = (directory / name).read_bytes()
    for path in sorted(directory.glob(f"{_TEMPLATES}/*.jinja")):
        contents[f"{_TEMPLATES}/{path.name}"] = path.read_bytes()
    return TokenizerFiles(contents)


def _download(name: str) -> Path:
    hub = optional("huggingface_hub", f"load_tokenizer({name!r})")
    described = [*_DESCRIPTIONS, *_FORMS, f"{_TEMPLATES}/*.jinja", _MODEL_CONFIG]
    wanted = [HUGGING_FACE, "*.model", *described]
    try:
        return Path(hub.snapshot_download(name, allow_patterns=wanted))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"load_tokenizer({name!r}): there is no such file or directory here, and "
            f"no model of that name from the Hugging Face hub ({error}). Check the "
            "name and the connection, or pass a local directory."
        ) from error
