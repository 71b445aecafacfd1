"""Special tokens that are tags are text; those that control a chat are not."""

import jax.numpy as jnp
import pytest
from tokenizers import AddedToken, decoders, models, pre_tokenizers, Tokenizer

from envs.gsm8k import GSM8K
from grpojax.env import Turn
from grpojax.text import HuggingFaceTokenizer, TokenizerFiles
from tests.helpers import mostly_slow


TAGS = ["<answer>", "</answer>", "<think>", "</think>", "<my-plan_2>", "</my-plan_2>"]
CONTROLS = [
    *("<s>", "</s>", "<pad>", "<unk>", "<|im_start|>", "<|im_end|>", "[INST]"),
    *("[/INST]", "<start_of_turn>", "<end_of_turn>", "<|think|>", "<file_sep>"),
]


def make(specials, config=b"{}"):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {character: i for i, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    added = [AddedToken(x, special=True, normalized=False) for x in specials]
    tokenizer.add_special_tokens(added)
    content = {"tokenizer.json": tokenizer.to_str().encode()}
    return HuggingFaceTokenizer(
        TokenizerFiles(content | {"tokenizer_config.json": config})
    )


@pytest.mark.parametrize("piece", TAGS)
def test_a_tag_is_text(piece):
    tokenizer = make([*TAGS, *CONTROLS])
    token = tokenizer.token_id(piece)
    assert tokenizer.encode(piece) == [token]
    assert tokenizer.token_bytes.join([token]) == piece.encode()
    mixed = tokenizer.encode(f"é 1{piece}</s>72 {piece}")
    assert tokenizer.decode(mixed) == f"é 1{piece}72 {piece}"
    assert tokenizer.token_bytes.join(mixed).decode() == tokenizer.decode(mixed)


@pytest.mark.parametrize("piece", CONTROLS)
def test_a_control_token_is_not(piece):
    tokenizer = make([*TAGS, *CONTROLS])
    token = tokenizer.token_id(piece)
    assert tokenizer.token_bytes.join([token]) == b""
    assert tokenizer.decode([token]) == ""


@pytest.mark.parametrize("role", ["eos", "bos", "pad", "unk"])
def test_a_tag_with_a_role_is_not(role):
    tokenizer = make(TAGS, b'{"%b_token": "</answer>"}' % role.encode())
    assert tokenizer.decode(tokenizer.encode("<answer>7</answer>")) == "<answer>7"


@pytest.mark.parametrize(("said", "paid"), [("72", 1), ("71", 0)])
@pytest.mark.parametrize(
    "specials", mostly_slow([TAGS, ["<answer>", "</answer>"], []], [TAGS])
)
def test_a_right_answer_is_paid(specials, said, paid):
    """Special tokens, or spelled by letters: it makes no difference."""
    tokenizer = make([*specials, "<|im_end|>"], b'{"eos_token": "<|im_end|>"}')
    rows = [dict(question="q", answer="#### 72")]
    env = GSM8K(rows, tokenizer, max_completion_length=64, answer_format="tag")
    ids = tokenizer.encode(f"<think>so</think><answer>{said}</answer>")
    tokens = jnp.zeros(64, jnp.int32).at[: len(ids)].set(jnp.array(ids))
    turn = Turn(tokens, jnp.array(len(ids)), jnp.array(True))
    _, step = env.step(env.problem(jnp.array(0))[0], turn)
    assert (float(step.rewards["correct"]), float(step.rewards["format"])) == (paid, 1)
