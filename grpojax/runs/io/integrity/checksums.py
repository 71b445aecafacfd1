"""Checksums: the length and the SHA-256 of what a run has written, for its readers.

A summary has those of its run's records, configuration and model, and its own. Records
are appended to, so theirs are of a beginning: a file that is longer still fits.
What a kill has kept from being recorded is the end of a file, and nothing else.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


CHECKSUMS, CHECKSUM = "checksums", "checksum"
"""Keys of a summary: the checksums of files by name, and of the rest of it."""


class Checksum(NamedTuple):
    """The length in bytes and the SHA-256 of a file, or of its beginning."""

    size: int
    sha256: str

    @classmethod
    def of(cls, content: bytes) -> "Checksum":
        """The checksum of a content."""
        return cls(len(content), hashlib.sha256(content).hexdigest())

    @classmethod
    def of_file(cls, path: Path) -> "Checksum":
        """The checksum of a file, which need not fit in memory."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return cls(file.tell(), digest)

    def begins(self, content: bytes) -> bool:
        """Whether a content begins with what it is of."""
        return Checksum.of(content[: self.size]) == self


Checksums = Mapping[str, tuple[Checksum, ...]]
"""The checksums of files by their paths in a run; of several, one fits."""


class RunningChecksum:
    """The checksum of a file that is appended to, from what is written to it.

    Not from what is on the disk by then, which may be damaged already.
    """

    def __init__(self, content: bytes = b""):
        self._size, self._digest = len(content), hashlib.sha256(content)

    def append(self, content: bytes) -> None:
        """Counts what was appended."""
        self._size += len(content)
        self._digest.update(content)

    @property
    def checksum(self) -> Checksum:
        """The checksum of all of it."""
        return Checksum(self._size, self._digest.hexdigest())


def line_digests(content: bytes) -> Iterator[str]:
    """A digest of each complete line, 16 hexadecimal digits."""
    for line in content.split(b"\n")[:-1]:
        yield hashlib.blake2b(line, digest_size=8).hexdigest()


def with_checksum(values: Mapping[str, object]) -> dict[str, object]:
    """A summary with the digest of its own values."""
    return {**values, CHECKSUM: _digest(values)}


def is_broken(summary: Mapping[str, object]) -> bool:
    """Whether a summary is not as it was written; those of older versions cannot be."""
    found = {name: value for name, value in summary.items() if name != CHECKSUM}
    return (CHECKSUM in summary or CHECKSUMS in summary) and summary.get(
        CHECKSUM
    ) != _digest(found)


def _digest(values: Mapping[str, object]) -> str:
    plain = json.dumps(values, sort_keys=True).encode()
    return hashlib.sha256(plain).hexdigest()


def parse(values: object) -> Checksums:
    """The checksums of files by name, from JSON: of each one, or all that fit."""
    found = {}
    for name, given in values.items() if isinstance(values, Mapping) else ():
        every = given if isinstance(given, list) else [given]
        checksums = tuple(
            checksum for one in every if (checksum := parse_checksum(one)) is not None
        )
        if checksums:
            found[str(name)] = checksums
    return found


def to_json(files: Mapping[str, Checksum | Sequence[Checksum]]) -> dict[str, object]:
    """Checksums as plain values, for `parse`."""
    plain = lambda x: (
        x._asdict() if isinstance(x, Checksum) else [y._asdict() for y in x]
    )
    return {name: plain(given) for name, given in files.items()}


def parse_checksum(value: object) -> Checksum | None:
    """A checksum from JSON; `None` for anything else."""
    if not isinstance(value, Mapping):
        return None
    size, digest = value.get("size"), value.get("sha256")
    if not isinstance(size, int) or not isinstance(digest, str):
        return None
    return Checksum(size, digest)


def of_summary(path: Path) -> Checksums:
    """The checksums in a summary's file; none if it cannot be read or is broken."""
    try:
        summary = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(summary, dict) or is_broken(summary):
        return {}
    return parse(summary.get(CHECKSUMS))


def unlike(path: Path, name: str, recorded: Checksums) -> list[str]:
    """The files of a run's folder, such as its model, that are not as it wrote them.

    **Arguments:**

    - `path`: of the run.
    - `name`: of the folder.
    - `recorded`: the checksums of its summary.
    """
    wrong = []
    for file, (checksum, *_) in recorded.items():
        if not file.startswith(f"{name}/"):
            continue
        try:
            # The size first: a digest reads all of a model.
            same = (path / file).stat().st_size == checksum.size
            if not same or Checksum.of_file(path / file) != checksum:
                wrong.append(file)
        except OSError:
            wrong.append(file)
    return wrong


def of_folder(path: Path, name: str) -> dict[str, Checksum]:
    """The checksums of the files in a folder of a run, by their paths in it."""
    files = (x for x in sorted((path / name).rglob("*")) if x.is_file())
    return {x.relative_to(path).as_posix(): Checksum.of_file(x) for x in files}
