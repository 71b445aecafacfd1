import dataclasses
import math
from typing import Literal

import pytest
from hypothesis import example, given, settings, strategies as st

from grpojax.runs.recipe import load as recipes


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    count: int = 3
    maybe: int | None = 7
    note: str = "text"
    maybe_note: str | None = None
    flag: bool = False
    kind: Literal["red", "blue"] = "red"
    maybe_kind: Literal["red", "blue"] | None = None


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = dataclasses.field(default_factory=Inner)
    steps: int = 5


def write(tmp_path, text: str):
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(*assignments: str) -> str:
    with pytest.raises(ValueError) as caught:
        recipes.load(Outer(), assignments=assignments)
    return str(caught.value)


def test_nothing_said_changes_nothing(tmp_path):
    assert recipes.load(Outer()) == Outer()
    assert recipes.load(Outer(), write(tmp_path, "")) == Outer()
    assert recipes.load(Outer(), write(tmp_path, "inner:\n")) == Outer()


def test_file_then_assignments_the_last_one_wins(tmp_path):
    path = write(tmp_path, "inner:\n  rate: 0.5\n  count: 1\nsteps: 2\n")
    got = recipes.load(Outer(), path, ["inner.count=8", "inner.count=9", "steps=3"])
    assert got == Outer(Inner(rate=0.5, count=9), steps=3)


def test_a_section_may_be_assigned_in_part():
    got = recipes.load(Outer(), None, ["inner.count=4", "inner={rate: 0.5}"])
    assert got == Outer(Inner(rate=0.5, count=4))


def test_zero_false_null_and_empty_text_are_kept(tmp_path):
    text = 'steps: 0\ninner: {rate: 0, count: 0, maybe: null, note: "", flag: false}\n'
    got = recipes.load(Outer(Inner(flag=True)), write(tmp_path, text))
    assert got == Outer(Inner(0.0, 0, None, "", flag=False), steps=0)
    assert type(got.inner.rate) is float


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "+1e-4", "1.0e-4", ".0001", "1e-04"])
def test_exponents_are_numbers(text):
    assert recipes.load(Outer(), None, [f"inner.rate={text}"]).inner.rate == 1e-4


@pytest.mark.parametrize(
    ("assignment", "unknown", "nearest"),
    [
        ("inner.rat=1", "inner.rat", "inner.rate"),
        ("iner.rate=1", "iner", "inner"),
        ("rate=1", "rate", "inner.rate"),
        ("stpes=1", "stpes", "steps"),
        ("inner.Rate=1", "inner.Rate", "inner.rate"),
    ],
)
def test_unknown_keys_name_the_nearest(tmp_path, assignment, unknown, nearest):
    expected = f"`{unknown}` is not a key of this recipe. The nearest is `{nearest}`"
    assert expected in refusal(assignment)
    names, value = assignment.split("=")
    *sections, leaf = names.split(".")
    text = "".join(f"{section}:\n  " for section in sections) + f"{leaf}: {value}\n"
    with pytest.raises(ValueError, match=f"nearest is `{nearest}`"):
        recipes.load(Outer(), write(tmp_path, text))


def test_dotted_keys_of_a_file_are_refused_with_the_remedy(tmp_path):
    with pytest.raises(ValueError, match="write `inner:` and its keys below"):
        recipes.load(Outer(), write(tmp_path, "inner.rate: 1\n"))


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("inner.rate=fast", "`inner.rate` must be a finite number. Received 'fast'."),
        ("inner.rate=true", "`inner.rate` must be a finite number. Received True."),
        ("inner.rate=.inf", "`inner.rate` must be a finite number. Received inf."),
        ("inner.rate=.nan", "`inner.rate` must be a finite number. Received nan."),
        ("inner.rate=", "`inner.rate` must be a finite number. Received None."),
        ("inner.count=1.0", "`inner.count` must be an integer. Received 1.0."),
        ("inner.count=false", "`inner.count` must be an integer. Received False."),
        ("inner.count='1'", "`inner.count` must be an integer. Received '1'."),
        ("inner.maybe=x", "`inner.maybe` must be an integer or null. Received 'x'."),
        ("inner.flag=1", "`inner.flag` must be true or false. Received 1."),
        ("inner.note=1", "`inner.note` must be a text. Received 1: put it in quotes."),
        ("inner.kind=green", "must be one of 'red', 'blue'. Received 'green'."),
        ("inner.maybe_kind=1", "one of 'red', 'blue' or null. Received 1."),
        ("inner.kind=[red]", "must be one of 'red', 'blue'. Received ['red']."),
        ("inner=3", "`inner` is a section with the keys rate, count, maybe"),
        ("steps.x=3", "`steps` must be an integer. Received {'x': 3}."),
        ("steps", "An assignment is written section.key=value. Received 'steps'"),
        ("=3", "An assignment is written section.key=value."),
        ("steps=[1", "The value in 'steps=[1' must be YAML."),
    ],
)
def test_wrong_values_name_key_value_and_type(assignment, expected):
    assert expected in refusal(assignment)


def test_missing_and_malformed_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is none at .*nowhere.yaml"):
        recipes.load(Outer(), tmp_path / "nowhere.yaml")
    with pytest.raises(ValueError, match="A recipe is a mapping of sections"):
        recipes.load(Outer(), write(tmp_path, "- 1\n"))
    with pytest.raises(ValueError, match="must be YAML"):
        recipes.load(Outer(), write(tmp_path, "steps: [1\n"))
    with pytest.raises(ValueError, match="the key 'steps' is there twice"):
        recipes.load(Outer(), write(tmp_path, "steps: 1\nsteps: 2\n"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${HOME}", "/root"),
        ("${HOME}/data-${N}", "/root/data-3"),
        ("${GONE:-else}", "else"),
        ("${EMPTY:-else}", "else"),
        ("${HOME:-else}", "/root"),
        ("${GONE:-}", ""),
        ("${EMPTY}", ""),
        ("$HOME", "$HOME"),
        ("$5 and $${HOME} or $", "$5 and ${HOME} or $"),
        ("${NESTED}", "${HOME}"),
    ],
)
def test_variables_in_texts(tmp_path, text, expected):
    environment = {"HOME": "/root", "N": "3", "EMPTY": "", "NESTED": "${HOME}"}
    path = write(tmp_path, f"inner:\n  note: '{text}'\n")
    for got in (
        recipes.load(Outer(), path, environment=environment),
        recipes.load(Outer(), None, [f"inner.note='{text}'"], environment),
    ):
        assert got.inner.note == expected
        again = write(tmp_path, recipes.dump(got))
        assert recipes.load(Outer(), again) == got


def test_variables_where_no_text_is_expected():
    environment = {"N": "3", "RATE": "1e-4", "KIND": "blue", "NOTHING": "null"}
    assignments = [
        "steps=${N}",
        "inner.rate=${RATE}",
        "inner.kind=${KIND}",
        "inner.maybe=${NOTHING}",
        "inner.flag=${FLAG:-true}",
        "inner.maybe_note=${NOTHING}",
    ]
    got = recipes.load(Outer(), None, assignments, environment)
    inner = Inner(1e-4, kind="blue", maybe=None, flag=True, maybe_note="null")
    assert got == Outer(inner, steps=3)
    with pytest.raises(ValueError, match="`steps` must be an integer. Received 'many'"):
        recipes.load(Outer(), None, ["steps=${N}"], {"N": "many"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${GONE}", "`inner.note` needs the variable GONE, which is not set"),
        ("${GONE", "close the brace, or write $${"),
        ("${}", "begins ${NAME} or ${NAME:-default}"),
        ("${1A}", "begins ${NAME} or ${NAME:-default}"),
        ("${A-b}", "begins ${NAME} or ${NAME:-default}"),
    ],
)
def test_a_variable_that_is_not_there_is_named(text, message):
    assert message in refusal(f"inner.note='{text}'")
    # What is replaced need not be there.
    got = recipes.load(Outer(), None, [f"inner.note='{text}'", "inner.note=new"])
    assert got.inner.note == "new"


texts = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ["1e-4", "null", "no", "1", "", " ", "a: b", "#x", "-", "2024-01-01", "1_0", "~"]
    + ["${A}", "$${A}", "${A:-b}", "$", "${", "$$${"]
)
inners = st.builds(
    Inner,
    rate=st.floats(allow_nan=False, allow_infinity=False),
    count=st.integers(-(2**62), 2**62),
    maybe=st.none() | st.integers(-(2**62), 2**62),
    note=texts,
    maybe_note=st.none() | texts,
    flag=st.booleans(),
    kind=st.sampled_from(["red", "blue"]),
    maybe_kind=st.sampled_from(["red", "blue", None]),
)


@settings(max_examples=100, deadline=None)
@example(inner=Inner(note="\x85", maybe_note=" \u2028"), steps=0)
@given(inner=inners, steps=st.integers(-(2**62), 2**62))
def test_what_is_dumped_loads_equal(tmp_path_factory, inner, steps):
    recipe = Outer(inner, steps)
    path = write(tmp_path_factory.mktemp("dump"), recipes.dump(recipe))
    got = recipes.load(Outer(), path)
    assert got == recipe
    assert math.copysign(1, got.inner.rate) == math.copysign(1, inner.rate)


@settings(max_examples=50, deadline=None)
@given(inner=inners)
def test_only_what_is_said_changes(inner):
    got = recipes.load(Outer(inner), None, ["steps=9"])
    assert got == Outer(inner, steps=9)
