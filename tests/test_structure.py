"""The shape of the house: sizes, rooms without circles, and the field's names."""

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "grpojax"
SOURCES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "envs").rglob("*.py")])
ROOMS = sorted({path.parent for path in SOURCES})
RUNS = [room for room in ROOMS if room.parent == PACKAGE / "runs"]
MOST_LINES, MOST_STATEMENTS, MOST_FILES, MOST_PARAMETERS = 300, 60, 10, 11


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the end, without the docstring."""
    lines = (function.end_lineno or 0) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None:
        lines -= (first.end_lineno or 0) - first.lineno + 1
    return lines


def parameters_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    given = function.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    named += [x for x in (given.vararg, given.kwarg) if x is not None]
    return len([x for x in named if x.arg not in ("self", "cls")])


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_files_and_functions_are_short(path):
    assert len(path.read_text().splitlines()) <= MOST_LINES
    for function in functions(path):
        assert lines_of(function) <= MOST_STATEMENTS, function.name
        assert parameters_of(function) <= MOST_PARAMETERS, function.name


@pytest.mark.parametrize("room", ROOMS, ids=name_of)
def test_a_room_has_few_files(room):
    files = [x for x in room.iterdir() if x.is_file() and not x.name.startswith(".")]
    assert len(files) <= MOST_FILES


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_every_module_says_what_it_is(path):
    text = path.read_text()
    assert not text.strip() or ast.get_docstring(ast.parse(text))


def rooms_imported(room: Path) -> set[str]:
    """Other rooms of `runs` that a room imports, wherever it does."""
    found = set()
    for path in room.rglob("*.py"):
        package = path.relative_to(ROOT).with_suffix("").parts[:-1]
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom):
                continue
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = [*base, *(node.module or "").split(".")]
            words = [word for word in module if word]
            if words[:2] == ["grpojax", "runs"]:
                targets = [words[2]] if len(words) > 2 else [x.name for x in node.names]
                found |= {x for x in targets if x != room.name}
    return found


def test_rooms_of_runs_have_no_circle():
    edges = {room.name: rooms_imported(room) for room in RUNS}
    order: list[str] = []
    while edges:
        free = [room for room, others in edges.items() if others <= set(order)]
        assert free, f"a circle among {edges}"
        order += free
        edges = {room: others for room, others in edges.items() if room not in free}
    assert len(order) == len(RUNS)


def test_grpojax_runs_names_its_rooms():
    text = (PACKAGE / "runs" / "__init__.py").read_text()
    assert all(f"`{room.name}`" in text for room in RUNS)


# Names that a JAX engineer had to translate, from the time before they were replaced.
RETIRED = """
    Tally Scored Frozen evenly streams_of in_streams _remember _pull Turns turned _once
    mixed MIXED _mix _WRITTEN_OUT _READ_AS_IT_IS _FEW_ROWS as_read _turned _lies whole
    spread gathered cut_by_compiler cuts_layers or_whole by_shard by_replica each_shard
    deal Lanes everything informative centered less Number visit Journal Keeper batches
    outcome extents silent Bounds Guard Verdict sinks Sink Guarded Place check_recipe
    GoingOn goes_on seal problem_with everywhere anyone share in_first several joined
    look_after leave Readings Reading say show judge group_normalized weighted_sum chain
    cosine soft_overlong repetition host_reward by_group_id in_process in_thread
    batch_normalized batch_scaled best_of_group dapo_mix gdpo most_informative
    take_informative score_in_parts gradient_in_parts over_replicas
""".split()


RETIRED_MODULES = """
    keeper journal _journals _sealing _expansion placement supervision outcome
    evaluating generating guards sinks plots parts loop recipes _tally _scores
    _streams _pack hlo
""".split()


def names_defined(tree: ast.AST) -> Iterator[str]:
    """Functions, classes and parameters that a module defines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda):
            yield from (x.id for x in node.targets if isinstance(x, ast.Name))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_name_needs_to_be_translated(path):
    assert not set(names_defined(ast.parse(path.read_text()))) & set(RETIRED)
    assert path.stem not in RETIRED_MODULES


# First lines that were riddles: an inverted clause, a pronoun or a homely verb.
RIDDLES = re.compile(
    r"\b(what there is|all there (is|are)|is left|what is said|was said|is told|"
    r"is paid|are paid|who pays|dealt out|goes on|stands for|puts on|as it lies|"
    r"cut over|are cut|is cut)\b",
    re.IGNORECASE,
)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_first_lines_are_noun_phrases_in_the_words_of_the_field(path):
    tree = ast.parse(path.read_text())
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(tree):
        if not isinstance(node, documented):
            continue
        text = ast.get_docstring(node) or ""
        first = "".join(itertools.takewhile(lambda x: x != "\n", text))
        assert not RIDDLES.search(first), first
