"""The files of a Hugging Face model directory, checked before use."""

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from ..._extras import optional
from ..._files import fsync_directory, publish
from ._safetensors import DTYPES, read_header, StoredTensor


CONFIG = "config.json"
GENERATION = "generation_config.json"
WEIGHTS = "model.safetensors"
_UNFINISHED = ".saving-"
_INDEX = "model.safetensors.index.json"
_SHARDS = ("model-*.safetensors", "model.safetensors-*.safetensors")

# Tensors beside the weights: old Llamas stored their rotary frequencies.
_IGNORED = ".rotary_emb.inv_freq"


def model_directory(path: str | os.PathLike[str], *, config_only: bool = False) -> Path:
    """The directory at `path`, or a snapshot of the model of that id on the hub.

    **Arguments:**

    - `path`: a directory, or a model's id.
    - `config_only`: download config.json and no weights, to check it before.

    **Raises:** `FileNotFoundError` if there is neither.
    """
    if Path(path).is_dir():
        return Path(path)
    missing = f"load({str(path)!r}): there is no such directory"
    if not isinstance(path, str) or not re.fullmatch(r"[\w.-]+/[\w.-]+", path):
        raise FileNotFoundError(
            f"{missing}, and it is not the id of a model on the Hugging Face hub "
            "(`organization/name`): check the path."
        )
    hub = optional("huggingface_hub", f"The model {path!r}")
    wanted = [CONFIG] if config_only else [CONFIG, WEIGHTS, _INDEX, *_SHARDS]
    try:
        return Path(hub.snapshot_download(path, allow_patterns=wanted))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"{missing}, and downloading a model of that name from the Hugging Face "
            f"hub failed ({error}). Check the name and the connection, or pass a local "
            "directory."
        ) from error


def read_json(path: Path) -> dict[str, object]:
    """The JSON object in a file of a model directory.

    **Raises:** `FileNotFoundError` if there is no file, `ValueError` if it holds none.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"A model directory contains {path.name}. {str(path.parent)!r} does not: "
            "pass the directory that `save_pretrained` wrote."
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is not a JSON object ({error}). Copy or download it again."
        ) from error
    if not isinstance(values, dict):
        raise ValueError(
            f"{path} is not a JSON object but a {type(values).__name__}. Copy or "
            "download it again."
        )
    return values


def write_json(path: Path, values: Mapping[str, object]) -> None:
    """Writes a JSON object, indented."""
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


@contextlib.contextmanager
def staged(
    path: str | os.PathLike[str], stale: Callable[[Path], Iterable[Path]] = lambda _: ()
) -> Iterator[Path]:
    """A temporary directory whose files are moved to `path` when all are written.

    **Arguments:**

    - `path`: the directory.
    - `stale`: its files that must not stay beside the new ones; they are removed then.
    """
    directory = Path(path)
    if directory.exists() and not directory.is_dir():
        raise NotADirectoryError(
            f"A model is written to a directory. Received {str(path)!r}, which is a "
            "file: choose another name, or remove it."
        )
    directory.mkdir(parents=True, exist_ok=True)
    for unfinished in directory.glob(f"{_UNFINISHED}*"):  # Of a killed process.
        shutil.rmtree(unfinished)
    with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=directory) as temporary:
        yield Path(temporary)
        # The configuration last: a directory that has one has the weights, too.
        files = sorted(Path(temporary).rglob("*"), key=lambda x: (x.name == CONFIG, x))
        for file in files:
            if file.is_file():
                place = directory / file.relative_to(temporary)
                place.parent.mkdir(exist_ok=True)
                publish(file, place)
        for file in stale(directory):
            file.unlink()
    fsync_directory(directory.parent)


def stale_shards(directory: Path) -> list[Path]:
    """The index and the shards of a model that was written in several files.

    Beside a new model.safetensors some readers would follow the index to them.
    """
    paths = [directory / _INDEX, *(y for x in _SHARDS for y in directory.glob(x))]
    return [path for path in paths if path.is_file()]


def stored_tensors(directory: Path) -> dict[str, StoredTensor]:
    """The tensors of a model directory by name, from the headers of its safetensors.

    **Raises:** `FileNotFoundError` for missing files, `ValueError` for corrupt ones.
    """
    if (directory / WEIGHTS).is_file():
        return read_header(directory / WEIGHTS)
    if not (directory / _INDEX).is_file():
        raise FileNotFoundError(
            f"A model directory contains {WEIGHTS}, or {_INDEX} and its shards. "
            f"{str(directory)!r} contains neither: save the model as safetensors."
        )
    weight_map = read_json(directory / _INDEX).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ValueError(
            f"{_INDEX} maps tensors to files under `weight_map`. Received "
            f"{weight_map!r}: copy or download it again."
        )
    shards = sorted(set(map(str, weight_map.values())))
    outside = [name for name in shards if Path(name).name != name]
    if outside:
        raise ValueError(
            f"{_INDEX} names files of its own directory. Received {_listed(outside)}: "
            "copy or download it again."
        )
    missing = [name for name in shards if not (directory / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{_INDEX} names {len(shards)} files, of which {str(directory)!r} lacks "
            f"{_listed(missing)}. Copy or download them."
        )
    stored = {}
    for name in shards:
        stored |= read_header(directory / name)
    return stored


def check_tensors(
    stored: Mapping[str, StoredTensor],
    expected: Mapping[str, tuple[int, ...]],
    config: str = CONFIG,
) -> None:
    """Checks that the stored tensors are those that a configuration describes.

    **Arguments:**

    - `stored`: every tensor of the model's files.
    - `expected`: the shape of every tensor, by the configuration.
    - `config`: the name of the configuration's file, for the error message.

    **Raises:** `ValueError` for missing or unexpected tensors, and for shapes or dtypes
    that differ.
    """
    missing = [name for name in expected if name not in stored]
    unexpected = [
        name for name in stored if name not in expected and not name.endswith(_IGNORED)
    ]
    if missing or unexpected:
        raise ValueError(
            f"The model's files and its {config} must describe the same tensors. "
            f"Missing: {_listed(missing)}. Unexpected: {_listed(unexpected)}. Take "
            "both from the same model."
        )
    wrong = [
        f"{name} has {stored[name].shape} instead of {shape}"
        for name, shape in expected.items()
        if stored[name].shape != shape
    ]
    if wrong:
        raise ValueError(
            f"Tensors must have the shapes that {config} gives them. Received: "
            f"{_listed(wrong)}. Take both from the same model."
        )
    dtypes = [
        f"{name} is {stored[name].dtype}"
        for name in expected
        if stored[name].dtype not in DTYPES
    ]
    if dtypes:
        raise ValueError(
            f"Weights are stored as {', '.join(DTYPES)}. Received: {_listed(dtypes)}. "
            "Convert the model first; quantized weights are not implemented."
        )


def _listed(names: list[str], most: int = 5) -> str:
    rest = [f"and {len(names) - most} more"] if len(names) > most else []
    return ", ".join(names[:most] + rest) or "none"
