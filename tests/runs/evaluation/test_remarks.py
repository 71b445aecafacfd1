"""What is said before anything is sampled, and what a terminal is given."""

import dataclasses
import io
import json

import jax.random as jr
import pytest
from rich.console import Console

from envs.gsm8k import GSM8K
from grpojax import models, text
from grpojax.runs.cli.generate import print_records
from grpojax.runs.evaluation.printing import echo
from grpojax.runs.evaluation.remarks import remarks
from grpojax.runs.io.terminal import printable

from ..conftest import SHIPPED


CHATML = (
    "{% for m in messages %}<start>{{ m.content }}END{% endfor %}"
    "{% if add_generation_prompt %}<start>{% endif %}"
)
ROWS = [dict(question="1 + 1?", answer="#### 2")]


def policy(tokenizer, positions):
    config = models.TransformerConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=8,
        intermediate_size=8,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=8,
        max_positions=positions,
    )
    return models.Transformer(config, key=jr.key(0))


def chat_tokenizer(tmp_path, end):
    text.load_tokenizer(SHIPPED).save(tmp_path)
    (tmp_path / "generation_config.json").write_text("{}")
    template = CHATML.replace("END", end)
    config = {"eos_token": "</s>", "chat_template": template}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return text.load_tokenizer(tmp_path)


@pytest.mark.parametrize("horizon", [1, 7, 300])
def test_positions(horizon):
    tokenizer = text.load_tokenizer(SHIPPED)
    env = GSM8K(ROWS, tokenizer, max_completion_length=horizon)
    needed = env.max_prompt_length + horizon
    assert remarks(policy(tokenizer, needed), env, tokenizer) == ()
    (said,) = remarks(policy(tokenizer, needed - 1), env, tokenizer)
    assert said.startswith(f"The model has {needed - 1:,} positions")
    assert f"needs {needed:,}" in said and "rollout.max_new_tokens" in said


def test_lengths_beyond_a_rotary_scaling_are_refused():
    tokenizer = text.load_tokenizer(SHIPPED)
    env = GSM8K(ROWS, tokenizer, max_completion_length=9)
    needed = env.max_prompt_length + 9
    for limit in (needed, needed - 1):
        scaling = models.DynamicScaling(2.0, limit)
        made = policy(tokenizer, 4096)
        config = dataclasses.replace(made.config, rope_scaling=scaling)
        made = models.Transformer(config, key=jr.key(0))
        if limit == needed:
            assert remarks(made, env, tokenizer) == ()
        else:
            with pytest.raises(ValueError, match=f"more than {limit} .*max_new_tokens"):
                remarks(made, env, tokenizer)


@pytest.mark.parametrize(
    ("end", "chat", "stop", "count"),
    [
        ("</s>", True, None, 0),
        ("<turn>", True, None, 1),
        ("<turn>", False, None, 0),
        ("<turn>", True, "<turn>", 0),
        ("", True, None, 0),
    ],
)
def test_an_end_that_the_template_does_not_write(tmp_path, end, chat, stop, count):
    tokenizer = chat_tokenizer(tmp_path, end)
    ends = [] if stop is None else [stop]
    env = GSM8K(ROWS, tokenizer, max_completion_length=9, end_tokens=ends)
    said = remarks(policy(tokenizer, 4096), env, tokenizer, chat=chat)
    assert len(said) == count
    assert all("every one will be truncated" in sentence for sentence in said)


HOSTILE = ["\x1b[2J", "\x1b]0;title\x07", "\x9b31m", "\r", "\x08", "\u202e", "\x7f"]


@pytest.mark.parametrize("content", HOSTILE)
def test_no_control_character_reaches_a_terminal(content):
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, color_system=None)
    echo(console, f"before {content} after\n\tline")
    sample = dict(
        pieces=[content, "b"],
        log_prob=[0.0, -1.0],
        sampled=[True, False],
        rewards={},
        total=0.0,
        terminated=True,
    )
    print_records([dict(prompt=f"p{content}", samples=[sample])], console)
    written = file.getvalue()
    assert not any(character in written for character in content if character < " ")
    assert content not in written and ascii(content[0])[1:-1] in written
    assert "\n\tline" in written or "line" in written


def test_texts_are_printed_as_they_are():
    assert printable("é 日本\n\t#### 4 🙂") == "é 日本\n\t#### 4 🙂"
