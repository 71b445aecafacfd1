"""The evaluations that a run has recorded, and whether their predictions are there."""

from collections.abc import Mapping

from ..io.integrity.checksums import parse_checksum
from ..io.integrity.repair import flaw_of_predictions
from ..io.run_directory import EVALUATIONS, RunDirectory
from .settings import Prepared


def name_of(record: Mapping) -> str:
    """The name of a recorded evaluation, which older ones do not have."""
    return record.get("name", record["split"])


def measures_of(record: Mapping) -> dict[str, float]:
    """The values that an evaluation has measured, by name."""
    values = {name: measure["value"] for name, measure in record["metrics"].items()}
    return {x: record[x] for x in ("accuracy",) if x in record} | values


def with_predictions(
    run: Prepared, directory: RunDirectory, step: int
) -> tuple[list[dict], list[str]]:
    """The evaluations of a run that is resumed, and what is wrong with their files.

    One whose predictions are not as they were written is made again if it can be: if
    it is one of `step`, the step that the run goes on from.
    """
    records, flaws = directory.records(EVALUATIONS), []
    kept = []
    for record in records:
        checksum, flaw, due = parse_checksum(record.get("predictions")), None, False
        name, made = name_of(record), record["step"]
        if checksum is not None:
            path = directory.predictions(made, record["mode"], name)
            flaw = flaw_of_predictions(path, checksum, made)
        if name in run.evaluators and made == step:
            due = run.evaluators[name].evaluation.is_due(made, run.steps)
        if flaw is None or not due:
            kept.append(record)
        if flaw is not None:
            flaws.append(f"{flaw} It is made again." if due else flaw)
    if len(kept) < len(records):
        directory.rewrite(EVALUATIONS, kept)
    return kept, flaws
