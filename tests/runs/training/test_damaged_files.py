"""Every file of a run, damaged in eight ways: recovered, or named in a line."""

import collections
import json
import random
import shutil
from pathlib import Path

import pytest

from grpojax.runs.cli import train as training
from grpojax.runs.cli.main import main
from grpojax.runs.recipe import load as recipes
from grpojax.runs.recipe.schema import Recipe
from grpojax.runs.training.display.progress import Progress


STEPS, KILLED_AT = 4, 3
UNIMPORTANT = (".lock", ".reserve", "curve.png")


def flip(content: bytes, draw: random.Random, other: bytes) -> bytes:
    del other
    place = draw.randrange(len(content)) if content else 0
    changed = bytearray(content or b"x")
    changed[place] ^= 1 << draw.randrange(7)
    return bytes(changed)


def zero_block(content: bytes, draw: random.Random, other: bytes) -> bytes:
    del other
    place = draw.randrange(max(len(content) - 64, 1))
    return content[:place] + bytes(64) + content[place + 64 :]


def double_line(content: bytes, draw: random.Random, other: bytes) -> bytes:
    del other
    lines = content.splitlines(keepends=True) or [b"\n"]
    place = draw.randrange(len(lines))
    return b"".join([*lines[: place + 1], lines[place], *lines[place + 1 :]])


DAMAGES = {
    "flip": flip,
    "halve": lambda content, *_: content[: len(content) // 2],
    "empty": lambda *_: b"",
    "delete": lambda *_: None,
    "garbage": lambda content, *_: content + b"\x07garbage\n",
    "swap": lambda *given: given[-1],
    "zeros": zero_block,
    "double": double_line,
}


@pytest.fixture(scope="module")
def runs(settings, tmp_path_factory):
    """A run that ended, as it was when it was killed, and another one."""
    folder = tmp_path_factory.mktemp("runs")
    words = settings(run__steps=STEPS, checkpoint__every=2)
    recipe = recipes.load(Recipe(), None, words)
    update = Progress.update

    def copy(self, number, metrics):
        update(self, number, metrics)
        if number == KILLED_AT:
            shutil.copytree(folder / "ended", folder / "killed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Progress, "update", copy)
        training.train(recipe, folder / "ended")
    other = recipes.load(Recipe(), None, [*words, "run.seed=5", "log.every=2"])
    training.train(other, folder / "other")
    return folder


def names(run: Path) -> list[str]:
    files = (x for x in sorted(run.rglob("*")) if x.is_file())
    return [str(x.relative_to(run)) for x in files if x.name not in UNIMPORTANT]


def damaged(runs: Path, kind: str, name: str, damage: str, place: Path) -> Path | None:
    """A run with a damaged file; `None` if the damage leaves it as it is."""
    run = shutil.copytree(runs / kind, place)
    file, other = run / name, runs / "other" / name
    content = file.read_bytes()
    foreign = other.read_bytes() if other.is_file() else b"{}\n"
    changed = DAMAGES[damage](content, random.Random(f"{name} {damage}"), foreign)
    if changed == content:
        return None
    file.unlink()
    if changed is not None:
        file.write_bytes(changed)
    return run


def records(run: Path) -> dict[str, object]:
    """All that a run has computed, without the time that it took."""
    found: dict[str, object] = {}
    for name in ("completions.jsonl", "evaluations.jsonl", "config.yaml"):
        found[name] = (run / name).read_bytes()
    for folder in ("predictions", "model"):
        for file in (run / folder).iterdir():
            if file.suffix != ".damaged":
                found[f"{folder}/{file.name}"] = file.read_bytes()
    lines = (run / "metrics.jsonl").read_text().splitlines()
    clocks = ("time", "step_time")
    found["metrics.jsonl"] = [
        {x: y for x, y in json.loads(line).items() if x not in clocks} for line in lines
    ]
    return found


def resumed(runs, run, name, capsys) -> str:
    """What `train --resume` makes of a damaged run."""
    words = recipes.dump(recipes.load(Recipe(), runs / "ended" / "config.yaml"))
    (run.parent / "recipe.yaml").write_text(words)
    recipe = [] if name != "config.yaml" else [str(run.parent / "recipe.yaml")]
    capsys.readouterr()
    code = main(["train", *recipe, "--out", str(run), "--resume"], {})
    said = capsys.readouterr().err
    assert "Traceback" not in said
    short = Path(name).name
    if code != 0:
        assert code in (2, 74) and said.count("\n") <= 2, said
        assert short in said or "checkpoint" in said or "holds" in said, said
        return "refused"
    # An older line of a file that is kept as a history, and one of a time that passed.
    same = records(run) == records(runs / "ended")
    named = short in (run / "events.jsonl").read_text() or short in said
    assert same or named, (name, said)
    return "recovered" if same else "named"


RECORDS = ("metrics", "completions", "evaluations", "events")
FILES = [f"{x}.jsonl" for x in RECORDS] + ["summary.json", "config.yaml"]
FILES += ["predictions/0-sampled.jsonl"]
CASES = [(kind, x) for kind in ("killed", "ended") for x in FILES]
CASES += [("ended", f"predictions/{STEPS}-sampled.jsonl")]


@pytest.mark.slow
@pytest.mark.parametrize("kind, name", CASES)
def test_a_damaged_record_is_recovered_or_named(runs, kind, name, tmp_path, capsys):
    found = collections.Counter()
    damages = list(DAMAGES) if kind == "killed" else ["flip", "delete", "swap"]
    for damage in damages:
        run = damaged(runs, kind, name, damage, tmp_path / damage / "run")
        found[resumed(runs, run, name, capsys) if run else "the same"] += 1
    with capsys.disabled():
        print(f"\n{kind}, {name}: {dict(found)}")
    assert found.total() == len(damages)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["killed", "ended"])
def test_a_report_of_a_damaged_run_names_what_is_damaged(runs, kind, tmp_path, capsys):
    """Also where the file plays no part in a report."""
    kept = shutil.copytree(runs / kind, tmp_path / "kept" / "run")
    assert main(["report", str(kept)], {}) == 0
    found: dict[str, collections.Counter] = {}
    for number, name in enumerate(names(runs / kind)):
        if name.startswith("checkpoints/"):
            continue
        for damage in DAMAGES:
            place = tmp_path / f"{number}-{damage}" / "run"
            run = damaged(runs, kind, name, damage, place)
            if run is None:
                outcome = "the same"
            else:
                assert main(["report", str(run)], {}) == 0, (name, damage)
                text = (run / "report.md").read_text()
                flaws = text.partition("## Missing or damaged")[2]
                same = text == (kept / "report.md").read_text().replace(
                    str(kept), str(run)
                )
                named = f"`{name}`" in flaws
                assert named or same, (name, damage)
                outcome = "named" if named else "harmless"
            found.setdefault(name, collections.Counter())[outcome] += 1
            shutil.rmtree(place, ignore_errors=True)
    with capsys.disabled():
        print()
        for name, outcomes in found.items():
            print(f"{kind}, {name}: {dict(outcomes)}")
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err


@pytest.mark.slow
def test_a_damaged_file_of_a_model_is_not_evaluated(runs, tmp_path, capsys):
    found = collections.Counter()
    for file in sorted((runs / "ended" / "model").iterdir()):
        name = f"model/{file.name}"
        for damage in DAMAGES:
            run = damaged(runs, "ended", name, damage, tmp_path / name / damage / "run")
            if run is None:
                found["the same"] += 1
                continue
            assert main(["evaluate", str(run), "--max-eval-samples", "2"], {}) == 2
            said = capsys.readouterr().err
            assert name in said or "checkpoint" in said, said
            found["named"] += 1
    with capsys.disabled():
        print(f"\nmodel: {dict(found)}")


@pytest.mark.slow
def test_damaged_checkpoints(runs, tmp_path, capsys):
    """Every file of the last one: the one before it is used, or the beginning."""
    found = collections.Counter()
    for name in names(runs / "killed"):
        if not name.startswith("checkpoints/"):
            continue
        for damage in ("flip", "delete"):
            run = damaged(runs, "killed", name, damage, tmp_path / damage / name)
            assert run is not None
            code = main(["train", "--out", str(run), "--resume"], {})
            said = capsys.readouterr().err
            # It is the only one: there is nothing to go on from.
            assert code == 2 and "None of the checkpoints" in said, said
            found["named"] += 1
    with capsys.disabled():
        print(f"\ncheckpoints: {dict(found)}")
