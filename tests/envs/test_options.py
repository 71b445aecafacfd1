"""The options of tasks: the keys of a recipe's section `data`."""

import dataclasses
import subprocess
import sys

import pytest

from envs import addition, gsm8k
from envs.answers import Integer
from envs.options import AdditionOptions, GSM8KOptions, OPTIONS

from .double import PIECES


def test_options_need_no_jax():
    """`--print-config` checks a recipe without it."""
    program = (
        "import sys, envs.options\n"
        "assert not {'jax', 'equinox', 'grpojax', 'numpy'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("task", OPTIONS)
def test_options_are_frozen_and_complete_by_default(task):
    options = OPTIONS[task]()
    assert options == OPTIONS[task]() and hash(options) is not None
    for field in dataclasses.fields(options):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(options, field.name, None)


@pytest.mark.parametrize(
    "key, value, least",
    [("train_rows", 0, 1), ("max_prompt_length", 0, 1), ("shots", -1, 0)],
)
def test_numbers_out_of_range_are_named_by_their_key(key, value, least):
    words = f"`data.{key}` must be at least {least}. Received {value}"
    with pytest.raises(ValueError, match=words):
        GSM8KOptions(**{key: value})


@pytest.mark.parametrize("stop", ["\\n", "\\n\\n", "\\nQuestion:", "end\\t", "\\r\\n"])
def test_a_newline_that_a_shell_wrote_as_two_characters_is_refused(stop):
    with pytest.raises(ValueError, match="two characters: for a newline write it"):
        GSM8KOptions(stop=stop)


def test_a_stop_string_has_a_character():
    with pytest.raises(ValueError, match="`data.stop` must have a character"):
        GSM8KOptions(stop="")
    for stop in ("\n", "\\boxed{", "\\right", " ", "####"):
        assert GSM8KOptions(stop=stop).stop == stop


@pytest.mark.parametrize(
    ("stop", "horizon", "message"),
    [
        ("</answer>" * 9, 8, "at least .* tokens, and at most 8 tokens"),
    ],
)
def test_a_stop_string_that_cannot_occur_is_refused(tokenizer, stop, horizon, message):
    options = GSM8KOptions(train_rows=2, stop=stop)
    with pytest.raises(ValueError, match=message):
        gsm8k.environments(options, tokenizer, horizon=horizon, held_out=1)


def test_gsm8k_makes_environments_of_its_options(tokenizer):
    options = GSM8KOptions(train_rows=12, shots=2, answer_format="tag", stop="\n")
    train, held_out, messages = gsm8k.environments(
        options, tokenizer, horizon=30, held_out=5
    )
    assert (train.size, held_out.size, messages) == (10, 5, [])
    assert train.kind == Integer("tag") and train.max_completion_length == 30
    assert [PIECES[token] for token in train.end_tokens.tolist()] == [b""]
    assert train.stop is not None and train.stop.fewest_tokens == 1
    prompt = tokenizer.decode(train.prompts[0, : train.prompt_lengths[0]])
    assert prompt.count("<answer>") == 2
    _, nothing, _ = gsm8k.environments(options, tokenizer, horizon=30, held_out=0)
    assert nothing is None
    skipping = dataclasses.replace(options, max_prompt_length=600, long_prompts="skip")
    train, held_out, messages = gsm8k.environments(
        skipping, tokenizer, horizon=30, held_out=5
    )
    skipped = train.skipped + held_out.skipped
    assert messages == [f"{skipped} rows with too long a prompt left out"] * (
        skipped > 0
    )


def test_addition_makes_environments_of_no_options(tokenizer):
    options = AdditionOptions()
    train, held_out, messages = addition.environments(
        options, tokenizer, horizon=4, held_out=None
    )
    assert (train.size, held_out.size, messages) == (65, 32, [])
    _, nothing, _ = addition.environments(options, tokenizer, horizon=4, held_out=0)
    assert nothing is None
    with pytest.raises(ValueError, match="`evaluations.held_out.problems` asks for 33"):
        addition.environments(options, tokenizer, horizon=4, held_out=33)
