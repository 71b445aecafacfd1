import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from envs.gsm8k import GSM8K, tokens_containing, word_problems
from grpojax.env import Turn
from grpojax.text import byte_table, oracle

from ..helpers import mostly_slow
from .double import PIECES


TIME = 24
INT32 = (-(2**31) + 1, 2**31 - 1)
ROWS = [
    {"question": "Two and two?", "answer": "2+2=<<2+2=4>>4\n#### 4"},
    {"question": "A lot, please?", "answer": "#### -1,234"},
    {"question": "One?", "answer": "#### 1"},
]


def text_of(prompt, problem=...):
    tokens = np.asarray(prompt.tokens[problem])[: int(prompt.length[problem])]
    return b"".join(PIECES[token] for token in tokens).decode()


def prompts_of(env):
    prompts = jax.vmap(env.problem)(jnp.arange(env.size))[1]
    return [text_of(prompts, problem) for problem in range(env.size)]


def turn_of(tokens, width=TIME):
    padded = np.zeros(width, np.int32)
    padded[: len(tokens)] = tokens
    ended = bool(tokens) and tokens[-1] == 0
    return Turn(*map(jnp.asarray, (padded, np.int32(len(tokens)), ended)))


step = eqx.filter_jit(lambda env, state, turn: env.step(state, turn)[1])
read = eqx.filter_jit(lambda env, turn: env.answer(turn))


# Mostly what answers are made of, sometimes anything.
PARTS = [PIECES.index(part) for part in (b"####", b"#### ", b" 1", b"<answer>")]
PARTS += [PIECES.index(part) for part in (b"</answer>", b"</answer>\n", b" " * 20)]
PARTS += [PIECES.index(bytes([byte])) for byte in b"0123456789-,.$# \n</>"]
tokens = st.lists(
    st.one_of(st.sampled_from(PARTS), st.integers(0, len(PIECES) - 1)), max_size=TIME
)
answered = st.builds(
    lambda before, marks, number, after: (before + marks(number) + after)[:TIME],
    st.lists(st.sampled_from(PARTS), max_size=6),
    st.sampled_from(
        [
            lambda n: [PIECES.index(b"####"), *n],
            lambda n: [PIECES.index(b"<answer>"), *n, PIECES.index(b"</answer>")],
        ]
    ),
    st.integers(-20, 20).map(lambda n: [1 + byte for byte in str(n).encode()]),
    st.lists(st.sampled_from(PARTS), max_size=6),
)


@pytest.mark.parametrize("answer_format", mostly_slow(["####", "tag"], ["tag"]))
def test_rewards_equal_the_oracle_on_arbitrary_tokens(tokenizer, answer_format):
    env = GSM8K(
        ROWS, tokenizer, max_completion_length=TIME, answer_format=answer_format
    )

    @settings(max_examples=150, deadline=None)
    @given(said=tokens | answered, error=st.sampled_from([0, 0, 1, -7]))
    def law(said, error):
        # Of a text with more than 16 bytes for each token, the end is read.
        text = b"".join(PIECES[token] for token in said)[-16 * TIME :]
        number = oracle.parse_integer(text, answer_format)
        gold = 0 if number is None else int(np.clip(number + error, *INT32))
        result = step(env, jnp.asarray(gold, jnp.int32), turn_of(said))
        plain = oracle.parse_integer(text, answer_format, plain=True)
        formatted = plain is not None
        rewards = jax.tree.map(float, result.rewards)
        assert rewards == {"correct": number == gold, "format": formatted}
        assert bool(result.done) and result.reply.shape == (0,)
        answer = read(env, turn_of(said))
        assert (int(answer.value) if answer.valid else None) == number
        assert env.gold(jnp.asarray(gold, jnp.int32)) == gold

    law()


@pytest.mark.parametrize(
    "answer_format, said, correct, formatted",
    [
        ("####", "2+2=4\n#### 4", 1, 1),
        ("####", "#### 5 or rather #### 4.", 1, 1),
        ("####", "#### 5", 0, 1),
        ("####", "it is 4", 0, 0),
        ("####", "#### **4** apples", 1, 0),
        ("####", "#### 4 or 5", 0, 1),
        ("####", "<think> #### 4", 0, 0),
        ("####", "#### 4 #### ", 0, 0),
        ("tag", "2+2=4 <answer>4</answer>", 1, 1),
        ("tag", "<answer>5</answer>", 0, 1),
        ("tag", "<answer>5</answer><answer>4</answer>", 1, 0),
        ("tag", "<answer>four</answer>", 0, 0),
        ("tag", "#### 4", 0, 0),
        ("tag", "<answer>4 apples</answer>", 1, 0),
    ],
)
def test_what_is_paid(tokenizer, answer_format, said, correct, formatted):
    env = GSM8K(
        ROWS, tokenizer, max_completion_length=TIME, answer_format=answer_format
    )
    state, _ = env.problem(jnp.asarray(0))
    rewards = step(env, state, turn_of(tokenizer.encode(said))).rewards
    assert rewards == {"correct": correct, "format": formatted}


def test_what_follows_the_length_of_a_turn_is_not_read(tokenizer):
    env = GSM8K(ROWS, tokenizer, max_completion_length=TIME)
    turn = turn_of(tokenizer.encode("#### 4"))
    short = eqx.tree_at(lambda turn: turn.length, turn, jnp.asarray(1, jnp.int32))
    assert step(env, jnp.asarray(4, jnp.int32), short).rewards["format"] == 0


def test_a_problem_is_its_rows_prompt_and_its_answer(tokenizer):
    env = GSM8K(ROWS, tokenizer, max_completion_length=TIME)
    assert prompts_of(env) == [f"Question: {row['question']}\nAnswer:" for row in ROWS]
    states, prompts = jax.vmap(env.problem)(jnp.arange(3))
    assert states.tolist() == [4, -1234, 1]
    assert prompts.tokens.shape == (3, env.max_prompt_length)
    assert int(prompts.length.max()) == env.max_prompt_length
    assert (env.size, env.max_turns, env.skipped) == (3, 1, 0)
    assert env.vocab_size == len(PIECES) and env.end_tokens.tolist() == [0]


def test_reset_draws_every_problem_and_is_a_function_of_its_key(tokenizer):
    env = GSM8K(ROWS, tokenizer, max_completion_length=TIME)
    keys = jr.split(jr.key(0), 64)
    states, prompts = jax.jit(jax.vmap(env.reset))(keys)
    again, _ = jax.vmap(env.reset)(keys)
    assert states.tolist() == again.tolist()
    drawn = {(int(s), text_of(prompts, i)) for i, s in enumerate(states)}
    assert drawn == {
        (gold, f"Question: {row['question']}\nAnswer:")
        for gold, row in zip((4, -1234, 1), ROWS, strict=True)
    }


def test_the_data_are_leaves(tokenizer):
    env = GSM8K(ROWS, tokenizer, max_completion_length=TIME)
    dtypes = {str(leaf.dtype) for leaf in jax.tree.leaves(env)}
    assert dtypes == {"int32", "uint8"}


def test_raw_prompts_show_worked_answers_without_annotations(tokenizer):
    env = GSM8K(
        ROWS[2:],
        tokenizer,
        max_completion_length=TIME,
        system_prompt="Do sums.",
        shots=ROWS[:2],
        template="Q: {question}\nA {step}:",
    )
    assert prompts_of(env) == [
        "Do sums.\n\nQ: Two and two?\nA {step}: 2+2=4\n#### 4\n\n"
        "Q: A lot, please?\nA {step}: #### -1,234\n\nQ: One?\nA {step}:"
    ]


def test_chat_prompts_are_conversations_with_tags_if_asked_for(tokenizer):
    env = GSM8K(
        ROWS[2:],
        tokenizer,
        max_completion_length=TIME,
        prompt_style="chat",
        system_prompt="Do sums.",
        shots=ROWS[:1],
        answer_format="tag",
    )
    assert prompts_of(env) == [
        "[system]Do sums.[user]Two and two?[assistant]2+2=4\n<answer>4</answer>"
        "[user]One?[assistant]"
    ]


def test_a_prompt_that_is_too_long_is_named_or_skipped_and_counted(tokenizer):
    lengths = [
        len(tokenizer.encode(f"Question: {row['question']}\nAnswer:")) for row in ROWS
    ]
    most = lengths[0]
    assert lengths[2] < most < lengths[1]
    with pytest.raises(
        ValueError,
        match=f"max_prompt_length={most} .* row 2 has {lengths[1]}.*Raise.*'skip'",
    ):
        GSM8K(ROWS, tokenizer, max_completion_length=4, max_prompt_length=most)
    env = GSM8K(
        ROWS,
        tokenizer,
        max_completion_length=4,
        max_prompt_length=most,
        long_prompts="skip",
    )
    assert (env.size, env.skipped, env.max_prompt_length) == (2, 1, most)
    assert env.answers.tolist() == [4, 1]
    wide = GSM8K(ROWS, tokenizer, max_completion_length=4, max_prompt_length=99)
    assert wide.prompts.shape == (3, 99)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"max_completion_length": 0}, "at least 1. Received 0"),
        ({"answer_format": "box"}, "'####' or 'tag'. Received 'box'"),
        ({"prompt_style": "poem"}, "'raw' or 'chat'. Received 'poem'"),
        ({"long_prompts": "cut"}, "'raise' or 'skip'. Received 'cut'"),
        ({"template": "Q: {}"}, "must contain `{question}`.*Received 'Q: {}'"),
        ({"end_tokens": [9999]}, "below the vocabulary's .* Received .*9999"),
        ({"max_prompt_length": 1, "long_prompts": "skip"}, "at least one problem"),
    ],
)
def test_options_are_checked(tokenizer, options, message):
    with pytest.raises(ValueError, match=message):
        GSM8K(ROWS, tokenizer, **{"max_completion_length": 4, **options})


def test_rows_are_checked(tokenizer):
    rows = [*ROWS, {"question": "?", "answer": "seven"}]
    with pytest.raises(ValueError, match="Row 4: its answer 'seven' is not an"):
        GSM8K(rows, tokenizer, max_completion_length=4)
    for lost in ("question", "answer"):
        row = {name: text for name, text in ROWS[0].items() if name != lost}
        with pytest.raises(ValueError, match=f"Every row needs.* Row 1: .* {lost!r}"):
            GSM8K([row], tokenizer, max_completion_length=4)
    with pytest.raises(ValueError, match="at least one problem.*0 rows"):
        GSM8K([], tokenizer, max_completion_length=4)


def test_tokens_containing_a_pattern_can_end_a_turn(tokenizer):
    newline = tokens_containing(tokenizer.token_bytes, b"\n")
    assert [PIECES[token] for token in newline] == [b"\n", b"</answer>\n", b"\n\n"]
    assert tokens_containing(byte_table([b"ab", b"b"]), b"ab") == (0,)
    env = GSM8K(ROWS, tokenizer, max_completion_length=4, end_tokens=newline)
    assert env.end_tokens.tolist() == [0, *newline]


def test_made_up_problems_can_be_played(tokenizer):
    rows = word_problems(8, split="test")
    env = GSM8K(rows, tokenizer, max_completion_length=80)
    for problem, row in enumerate(rows):
        state, _ = env.problem(jnp.asarray(problem))
        turn = turn_of(tokenizer.encode(row["answer"]), width=80)
        assert step(env, state, turn).rewards == {"correct": 1, "format": 1}
