"""The records of a run that is resumed: what is proven, and what is restored."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from .. import jsonl
from .checksums import Checksum, Checksums, line_digests


LINES = "lines.json"
"""The file of a checkpoint with the digests of the lines that a run had logged."""


_Kind = Literal["before", "after", "history"]
_KINDS: Mapping[str, _Kind] = {
    "evaluations.jsonl": "after",
    "events.jsonl": "history",
}


class RecordFile(NamedTuple):
    """What is known of a file of records that is resumed.

    **Fields:**

    - `found`: its content.
    - `copy`: the content that the checkpoint holds; `None` if it holds none.
    - `digests`: those of its lines at the checkpoint; `None` if that has none.
    - `checksum`: its own in the summary; `None` if that has none.
    - `kind`: whether its records of a step come `"before"` the checkpoint of the step,
        or may come `"after"` it, or are a `"history"` that is kept.
    """

    found: bytes
    copy: bytes | None
    digests: Sequence[str] | None
    checksum: Checksum | None
    kind: _Kind

    def at(self, step: int) -> tuple[bytes, str | None]:
        """The content that the file had at a step, and its damage, if any."""
        intact = self.checksum is None or self.checksum.begins(self.found)
        if self.kind == "history":
            return self._readable(), None if intact else (
                "is not as it was written; what can be read of it is kept"
            )
        if self.digests is not None:
            return self._with_digests(self.digests)
        saved = self.copy or b""
        if self.kind == "before" and self.copy is not None:
            # What is beyond the copy is written again.
            return saved, jsonl.truncate(self.found, step, saved)[1]
        if self.checksum is None:
            return jsonl.truncate(self.found, step, saved)
        if not intact:
            return saved, None if self.found == saved else (
                "was not as it was written; what its checkpoint does not hold is "
                "written again"
            )
        # What has no checksum is written again, too.
        end = max(self.checksum.size, len(saved))
        return jsonl.truncate(self.found[:end], step, saved)

    def _readable(self) -> bytes:
        """The lines that are records."""
        lines = self.found.split(b"\n")[:-1]
        return b"".join(x + b"\n" for x in lines if jsonl.record_in(x) is not None)

    def _with_digests(self, digests: Sequence[str]) -> tuple[bytes, str | None]:
        """Those lines that were there at the checkpoint, in their order."""
        lines = self.found.split(b"\n")[:-1]
        known = dict(zip(line_digests(self.found), lines, strict=True))
        kept = [known[digest] for digest in digests if digest in known]
        content = b"".join(line + b"\n" for line in kept)
        if self.found.startswith(content) and len(kept) == len(digests):
            return content, None
        lost = len(digests) - len(kept)
        how = (
            f"has lost {lost:,} of the {len(digests):,} lines"
            if lost
            else (f"held other lines between the {len(digests):,}")
        )
        return content, f"{how} that were logged, and no others were kept"


def to_snapshot(lines: Mapping[str, Sequence[str]]) -> bytes:
    """The file `LINES`, from the digests of lines by the names of their files."""
    return json.dumps(lines).encode()


def record_file(
    name: str, found: bytes, recorded: Checksums, saved: Mapping[str, bytes]
) -> RecordFile:
    """What is known of a run's file.

    **Arguments:**

    - `name`: of the file.
    - `found`: its content.
    - `recorded`: the checksums of the summary.
    - `saved`: the files in the checkpoint that is resumed.
    """
    digests = json.loads(saved.get(LINES, b"{}")).get(name)
    checksum = next(iter(recorded.get(name, ())), None)
    kind = _KINDS.get(name, "before")
    return RecordFile(found, saved.get(name), digests, checksum, kind)


def flaw_of_predictions(path: Path, checksum: Checksum | None, step: int) -> str | None:
    """What is wrong with the predictions of a recorded evaluation, if anything.

    **Arguments:**

    - `path`: of their file.
    - `checksum`: theirs, in the record; evaluations of older versions have none.
    - `step`: of the evaluation.
    """
    if checksum is None:
        return None
    try:
        if Checksum.of_file(path) == checksum:
            return None
        fault = "is not as it was written"
    except FileNotFoundError:
        fault = "is missing"
    except OSError as error:
        fault = f"cannot be read ({error.strerror})"
    return (
        f"`{path.parent.name}/{path.name}`, from which the evaluation of step {step} "
        f"was made, {fault}."
    )
