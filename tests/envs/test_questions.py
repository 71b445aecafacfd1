"""Questions: prompts of rows, their columns, and what is refused."""

import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

from envs._parts import make_answer
from envs.answers import Decimal, Integer, NoAnswer, OneOf, Text
from envs.options import QuestionsOptions
from envs.questions import environments, PromptFormat, Questions
from grpojax.env import Turn
from grpojax.testing import check_env


ROWS = [
    {"question": "1 + 1?", "answer": 2, "a": "x", "level": {"name": "easy"}},
    {"question": "5 - 2?", "answer": "3", "a": "y", "level": {"name": "hard"}},
]
MESSAGES = [{"role": "user", "content": "Hi."}]


def prompts_of(env, tokenizer):
    prompts = jax.vmap(env.problem)(jnp.arange(env.size))[1]
    lengths = zip(prompts.tokens, prompts.length, strict=True)
    return [tokenizer.decode(tokens[:length]) for tokens, length in lengths]


def asked(tokenizer, prompt, rows=ROWS, **more):
    format = PromptFormat(prompt, **more)
    env = Questions(rows, tokenizer, NoAnswer(), format, max_completion_length=4)
    return prompts_of(env, tokenizer)


def test_a_prompt_is_a_column_a_template_or_messages(tokenizer):
    ask = lambda *args, **more: asked(tokenizer, *args, **more)
    assert ask("question") == ["1 + 1?", "5 - 2?"]
    assert ask("level.name") == ["easy", "hard"]
    assert ask("{{ a }}: {{ question }}\n") == ["x: 1 + 1?\n", "y: 5 - 2?\n"]
    assert ask("{% if level.name == 'easy' %}1{% else %}2{% endif %}") == ["1", "2"]
    assert ask("a", chat=True) == ["[user]x[assistant]", "[user]y[assistant]"]
    assert ask("a", system_prompt="Go.") == ["Go.\n\nx", "Go.\n\ny"]
    messages = [{"role": "user", "content": "{{ a }}?"}]
    whole = "[system]Go.[user]x?[assistant]"
    assert ask(messages, system_prompt="Go.")[0] == whole
    rows = [{"messages": MESSAGES}]
    assert ask("messages", rows) == ["[user]Hi.[assistant]"]


def test_shots_are_answered_as_a_completion_should_be(tokenizer):
    def first(answer, value, **more):
        shot = {"question": "2?", "answer": value}
        env = Questions(
            *(ROWS, tokenizer, answer, PromptFormat(**more)),
            shots=[shot],
            max_completion_length=4,
        )
        return prompts_of(env, tokenizer)[0]

    worked = "1+1=<<1+1=2>>2\n#### 2"
    assert first(Integer("####"), 2) == "2? #### 2\n\n1 + 1?"
    assert first(Integer("####"), worked) == "2? 1+1=2\n#### 2\n\n1 + 1?"
    assert first(Integer("boxed"), worked) == "2? 1+1=2\n\\boxed{2}\n\n1 + 1?"
    assert first(Integer("<sum>"), 2) == "2? <sum>2</sum>\n\n1 + 1?"
    assert first(OneOf(Text()), ["two", "2"]) == "2? two\n\n1 + 1?"
    tag = first(Integer("tag"), "#### 2", chat=True)
    assert tag == "[user]2?[assistant]<answer>2</answer>[user]1 + 1?[assistant]"


@pytest.mark.parametrize(
    ("prompt", "row", "words"),
    [
        (
            "q",
            {"a": 1, "b": 2},
            "no column 'q'; there are 'a', 'b'.*{q: a}",
        ),
        ("q", {"q": 3}, "its 'q' is not a text: 3"),
        ("q", {"q": None}, "its 'q' is not a text: None"),
        ("q", {"q": {"text": "x"}}, "not a text.* a field of it is `q.text`"),
        ("q.b", {"q": {"text": "x"}}, "no column 'b'; there are 'text'"),
        ("q", {"q": " "}, "its 'q' is empty"),
        ("q", {"q": ["x"]}, "messages with a `role` and a `content`, and has 'x'"),
        ("q", {"q": [{"role": "user"}]}, "messages with a `role` and a `content`"),
        (
            "q",
            {"q": [*MESSAGES, {"role": "assistant", "content": "Ho."}]},
            "its 'q' ends with a message of the assistant",
        ),
        ("{{ q }}", {"a": 1}, "'q' is undefined; there are 'a'"),
        ("{{ a + 1 }}", {"a": "x"}, "cannot be rendered: TypeError"),
        ("{{ a }}", {"a": ""}, "its prompt is empty"),
    ],
)
def test_a_row_without_a_prompt_is_named(tokenizer, prompt, row, words):
    with pytest.raises(ValueError, match=f"Row 1: .*{words}"):
        asked(tokenizer, prompt, [row])


def test_templates_are_checked_before_rows_are_read():
    with pytest.raises(ValueError, match="jinja template. Received '{{ q', line 1"):
        PromptFormat("{{ q")
    with pytest.raises(ValueError, match="jinja template"):
        PromptFormat([{"role": "user", "content": "{% if %}"}])


def test_the_host_has_all_columns_of_the_problems_in_their_order(tokenizer):
    rows = [ROWS[0], {"question": "A long one" * 9, "answer": 1}, ROWS[1]]
    env = Questions(
        *(rows, tokenizer, Integer("last")),
        max_completion_length=4,
        max_prompt_length=20,
        long_prompts="skip",
    )
    assert (env.size, env.skipped) == (2, 1)
    assert env.rows.size == 2 and env.rows["level"] == [x["level"] for x in ROWS]
    assert env.answers.tolist() == [2, 3]
    check_env(env, key=jr.key(0))


def test_without_answers_there_are_no_rewards(tokenizer):
    env = Questions(ROWS, tokenizer, NoAnswer(), max_completion_length=4)
    check_env(env, key=jr.key(0))
    turn = Turn(jnp.zeros(4, jnp.int32), jnp.ones((), jnp.int32), jnp.array(True))
    assert env.step(env.problem(jnp.array(0))[0], turn)[1].rewards == {}


def made(tokenizer, tmp_path, text, problems=1, **more):
    path = tmp_path / "rows.csv"
    path.write_text(text)
    options = QuestionsOptions(path=str(path), **more)
    return environments(options, tokenizer, horizon=4, held_out=problems)


CSV = "text,label\n" + "".join(f"{n} + 1?,{n + 1}\n" for n in range(6))
NAMES = {"question": "text", "answer": "label"}


def test_the_task_makes_environments_of_a_file(tokenizer, tmp_path):
    train, test, notes = made(tokenizer, tmp_path, CSV, columns=NAMES)
    assert (train.size, test.size, notes) == (5, 1, [])
    assert test.answers.tolist() == [1] and train.rows["label"][0] == "2"
    some = made(tokenizer, tmp_path, CSV, 0, columns=NAMES, held_out=2, shots=1)
    assert some[1] is None and some[0].size == 3
    assert prompts_of(some[0], tokenizer)[0] == "2 + 1? 3\n\n3 + 1?"


def test_what_is_left_out_is_noted(tokenizer, tmp_path):
    text = CSV + "7 + 1?,eight\n0 + 1?,1\n100 + 10000?,10100\n"
    with pytest.raises(ValueError, match="rows.csv, line 8: its answer 'eight' is"):
        made(tokenizer, tmp_path, text, columns=NAMES)
    train, test, notes = made(
        *(tokenizer, tmp_path, text),
        columns=NAMES,
        bad_rows="skip",
        duplicates="skip",
        long_prompts="skip",
        max_prompt_length=8,
        filter=f"{__name__}:below_five",
        held_out=1,
    )
    assert (train.size, test.size) == (4, 1)
    assert notes == [
        "1 row that cannot be read left out",
        f"1 row rejected by {__name__}:below_five left out",
        "1 row with the prompt of an earlier row left out",
        "1 row with too long a prompt left out",
    ]


def below_five(row):
    return row["answer"] != "5"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({}, "line 2: .*no column 'question'; there are 'text', 'label'.*question: te"),
        ({"prompt": "text"}, "line 2: it has no column 'answer'; there are 'text'"),
        ({"filter": "no.such:thing"}, "`data.filter` must lead to.*'no.such:thing'"),
        ({"filter": f"{__name__}:nothing"}, "`data.filter` must lead to.*nothing"),
        ({"filter": f"{__name__}:CSV"}, "`data.filter` must be a function"),
        ({"answer": "Intejer"}, "one of .*Integer.*the nearest is 'Integer'"),
        (
            {"answer": {"name": "Integer", "fnd": "tag"}},
            "`data.answer` is ref.*fnd",
        ),
        ({"answer": {"find": "tag"}}, "a mapping with its `name`"),
        ({"answer": f"{__name__}:CSV"}, "must be a kind of answers"),
        (
            {"answer": {"name": "OneOf", "kind": "Txt"}},
            "`data.answer.kind` must be",
        ),
    ],
)
def test_the_task_refuses_in_the_words_of_a_recipe(tokenizer, tmp_path, more, words):
    with pytest.raises(ValueError, match=words):
        made(tokenizer, tmp_path, CSV, **more)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"columns": ["a"]}, "`data.columns` gives columns other names"),
        ({"columns": {"question": 3}}, "`data.columns` gives columns other names"),
        ({"prompt": 3}, "`data.prompt` is a column, a template, or a list"),
        ({"prompt": [{"role": "user"}]}, "`data.prompt` is a column"),
        ({"held_out": 1.5}, "`data.held_out` is a number of rows, or a share"),
        ({"held_out": 0.0}, "`data.held_out` is a number of rows, or a share"),
        ({"held_out": -1}, "`data.held_out` must be at least 0"),
        ({"held_out": 0.5, "eval_split": "dev"}, "besides `data.eval_path`"),
        ({"filter": "mine"}, "`data.filter` is a function of a row"),
    ],
)
def test_options_are_refused_by_their_keys(options, words):
    with pytest.raises(ValueError, match=words):
        QuestionsOptions(**options)


def test_a_recipe_describes_kinds_of_answers():
    assert make_answer("Text") == Text()
    half = {"name": "Decimal", "tolerance": 0.5}
    assert make_answer(half) == Decimal(0.5)
    assert make_answer({"name": "OneOf", "kind": half}) == OneOf(Decimal(0.5))
    assert make_answer({"name": "OneOf", "kind": "Text"}) == OneOf(Text())
    assert make_answer("envs.answers:NoAnswer") == NoAnswer()
    assert make_answer(f"{__name__}:mine") == Integer("boxed")


mine = Integer("boxed")
