"""What a command line assigns is taken as it is; what is too large is refused."""

import pytest

from grpojax.runs.cli.main import build_parser
from grpojax.runs.cli.options import joins
from grpojax.runs.recipe import yaml_format
from grpojax.runs.recipe.load import load
from grpojax.runs.recipe.schema import Recipe


def option(key, text):
    return load(Recipe(), None, [f"data.{key}={text}"]).data.option(key)


@pytest.mark.parametrize(
    "text",
    [
        "End with #### and the number.",
        "####",
        "#",
        " # ",
        "\n",
        "\n\n",
        " ",
        "a  b\n\nc",
        "42 # the answer",
        "true #",
        "null # nothing",
        "~ #",
        "--- text",
        "&a text",
        "it's \\n",
        " leading and trailing ",
    ],
)
def test_a_text_is_taken_literally(text):
    assert option("system_prompt", text) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('"\\n"', "\n"),
        ("'a # b'", "a # b"),
        ('"42"', "42"),
        ("null", None),
        ("~", None),
        ("", None),
        ("''", ""),
    ],
)
def test_quotes_and_null_are_yaml(text, value):
    assert option("system_prompt", text) == value


def test_spaces_around_the_sign_are_no_part_of_it():
    recipe = load(Recipe(), None, ["data.system_prompt = Think #1. ", "run.steps = 3"])
    assert recipe.data.option("system_prompt") == "Think #1."
    assert recipe.run.steps == 3


@pytest.mark.parametrize(
    "assignment",
    [
        "data.system_prompt=Answer: yes # or no",
        "data.system_prompt=[a, b] # list",
        'data.system_prompt="a" # b',
        "data.system_prompt=- think",
        "data.system_prompt=42",
        "data.system_prompt=yes",
        "data.system_prompt=*bold*",
        "run.steps=5 # five",
        "optimizer.schedule=cosine # decays",
    ],
)
def test_what_would_be_shortened_is_refused(assignment):
    with pytest.raises(ValueError, match="quotes|must be"):
        load(Recipe(), None, [assignment])


DOUBLED = "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)
BOMBS = {
    "aliases": f"a0: &a0 [x, x]\n{DOUBLED}",
    "keys": "".join(f"key{i}: {i}\n" for i in range(30_000)),
    "depth": "[" * 5_000 + "]" * 5_000,
    "mappings": "{a: " * 3_000 + "1" + "}" * 3_000,
    "itself": "a: &a [*a]",
    "length": f"a: {'x' * 2_000_000}",
    "digits": f"run: {{steps: {'9' * 5_000}}}",
    "date": "run: {steps: 2024-99-99}",
    "blocks": "".join(f"{' ' * i}a:\n" for i in range(500)),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_few_lines_stand_for_little(kind, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(BOMBS[kind], encoding="utf-8")
    with pytest.raises(ValueError, match=r"recipe.yaml must be (values of )?YAML"):
        load(Recipe(), path)


def test_aliases_and_duplicates_of_unhashable_keys():
    assert yaml_format.read("a: &x {b: 1}\nc: [*x, *x]", "It") == {
        "a": {"b": 1},
        "c": [{"b": 1}, {"b": 1}],
    }
    with pytest.raises(ValueError, match="is there twice"):
        yaml_format.read("a: 1\nb: 2\na: 3", "It")
    with pytest.raises(ValueError, match="unhashable key"):
        yaml_format.read("[1]: 1\n[1]: 2", "It")


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        (f"run.seed={2**64}", "must be an integer. Received 18446744073709551616"),
        (f"run.seed={2**32}", "`run.seed` must be at most 4294967295"),
        ("run.seed=-1", "`run.seed` must be at least 0"),
        (f"run.steps={10**400}", "`run.steps` must be an integer. Received 1000"),
        (f"rollout.group={2**31}", "`rollout.group` must be at most 2147483647"),
        (f"optimizer.learning_rate={10**400}", "must be a finite number"),
        (f"reward.weights.correct={10**400}", "must be a finite number"),
        (f"algorithm.delta={10**400}", "must be made of finite numbers"),
        ("optimizer.learning_rate=1e400", "must be a finite number"),
        (f"data.shots={10**30}", "`data.shots` must be an integer"),
        (f"mesh.data={10**30}", "`mesh.data` must be an integer"),
    ],
)
def test_numbers_have_ranges(assignment, message):
    with pytest.raises(ValueError, match=message):
        load(Recipe(), None, [assignment])
    assert load(Recipe(), None, [f"run.seed={2**32 - 1}"]).run.seed == 2**32 - 1


@pytest.mark.parametrize("port", ["0", "65536", "99999999", "9" * 5000, "x", "", "²"])
def test_ports_have_a_range(port):
    words = ["train", "--coordinator", f"host:{port}", "--processes", "2"]
    options = build_parser().parse_args([*words, "--process", "0"])
    with pytest.raises(ValueError, match="a port from 1 to 65535"):
        joins(options, Recipe())


@pytest.mark.parametrize("content", [b"\xff\xfe", b"run: {steps: \xc3}", b"\x80"])
def test_a_recipe_that_is_no_text_is_named(tmp_path, content):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="text in UTF-8. '.*recipe.yaml' is not"):
        load(Recipe(), path)


@pytest.mark.parametrize("word, value", [("off", "off"), ("false", "off"), ("on", "")])
def test_the_words_off_and_no_are_one_value_to_yaml(word, value):
    assignment = [f"tracking.wandb={word}"]
    if value:
        assert load(Recipe(), None, assignment).tracking.wandb == value
    else:
        with pytest.raises(ValueError, match="must be one of .*Received 'on'"):
            load(Recipe(), None, assignment)
