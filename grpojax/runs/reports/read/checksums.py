"""Which files of a run are not as it wrote them."""

from pathlib import Path

from ...io.integrity import checksums
from ...io.jsonl import Record
from ...io.run_directory import (
    ADAPTER,
    COMPLETIONS,
    CONFIG,
    EVALUATIONS,
    EVENTS,
    METRICS,
    MODEL,
    SUMMARY,
)


def unproven_files(path: Path, summary: Record, flaws: list[str]) -> list[str]:
    """The files of a run that do not match their checksums in its summary."""
    found, recorded = [], checksums.parse(summary.get(checksums.CHECKSUMS))
    for name in (CONFIG, METRICS, COMPLETIONS, EVALUATIONS, EVENTS):
        try:
            content = (path / name).read_bytes()
        except OSError:
            content = b""
        fitting = [
            checksum for checksum in recorded.get(name, ()) if checksum.begins(content)
        ]
        rest = [content[checksum.size :] for checksum in fitting]
        # Evaluations get theirs as they are written, other records now and then.
        whole = summary.get("complete") is True or name in (CONFIG, EVALUATIONS)
        if name in recorded and (not fitting or (whole and all(rest))):
            found.append(name)
        elif name in recorded and all(rest):
            count = rest[0].count(b"\n")
            flaws.append(
                f"`{name}` has {count} lines without a checksum: the run was killed "
                "after they were written, or goes on."
            )
    for folder in (MODEL, ADAPTER):
        found += checksums.unlike(path, folder, recorded)
    flaws += [
        f"`{name}` does not match its checksum in `{SUMMARY}`: one of the two was "
        "changed, damaged or taken from another run."
        for name in found
    ]
    return found
