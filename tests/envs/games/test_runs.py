"""Games in evaluations, and in what `generate` shows."""

import io
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from rich.console import Console

from grpojax.runs.evaluation.evaluate import Evaluation
from grpojax.runs.evaluation.generate import generate
from grpojax.runs.evaluation.printing import print_result
from grpojax.runs.io.terminal import printable

from ...helpers import UniformPolicy
from ..double import PIECES
from .conversations import environment, TOKENIZER


def eager(game: str):
    """A game in which one token in five ends a turn."""
    env = environment(game, count=8, max_completion_length=40)
    ends = jnp.arange(0, len(PIECES), 5, dtype=jnp.int32)
    return eqx.tree_at(lambda env: env.end_tokens, env, ends)


def test_whole_conversations_are_shown():
    env = eager("guess_number")
    policy = UniformPolicy(len(PIECES))
    records: Any = generate(policy, env, TOKENIZER, problems=2, samples=2)
    shown = 0
    for sample in (x for record in records for x in record["samples"]):
        pairs = list(zip(sample["pieces"], sample["sampled"], strict=True))
        replies = "".join(piece for piece, sampled in pairs if not sampled)
        shown += replies.startswith("A number from 1 to 20, please. Guess:")
        assert sample["rewards"].keys() == {"correct", "valid"}
    assert shown > 0


def test_a_game_has_an_accuracy_and_whole_conversations_are_printed():
    env = eager("nim")
    result = Evaluation(env, batch=8).run(UniformPolicy(len(PIECES)))
    assert result.accuracy == 0.0 and result.interval[1] < 0.5
    assert "valid" in result.rewards
    # The two that are printed end in a turn, and not in the reply before it.
    output = io.StringIO()
    print_result(result, TOKENIZER, Console(file=output, width=200), "before")
    printed = output.getvalue()
    assert (result.total_lengths[:2] > result.lengths[:2]).any()
    for tokens, length in zip(result.tokens[:2, 0], result.total_lengths, strict=False):
        last = TOKENIZER.decode(tokens[: length[0]]).strip().splitlines()[-1]
        assert printable(last) in printed
