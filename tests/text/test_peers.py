"""Tokenizers, prompts and templates equal those of `transformers`."""

import json
import random

import pytest

from grpojax.text import load_tokenizer
from tests.text import peers


ANSWERS = json.loads(peers.ANSWERS.read_text())


@pytest.mark.parametrize("case", peers.CASES)
def test_what_transformers_said(case, tmp_path):
    tokenizer = load_tokenizer(peers.write(tmp_path / "a", case))
    said = ANSWERS[case]
    assert tokenizer.vocab_size == said["size"]
    assert [tokenizer.encode(text) for text in peers.TEXTS] == said["encode"]
    assert [tokenizer.decode(ids) for ids in said["encode"]] == said["decode"]
    assert [tokenizer.encode_prompt(text) for text in peers.TEXTS] == said["prompt"]
    if said["eos"] is not None:
        assert tokenizer.end_tokens == (said["eos"],)
    if said["pad"] is not None:
        assert tokenizer.pad_token == said["pad"]
    for name, text in said.get("chat", {}).items():
        made = tokenizer.chat_text(
            peers.MESSAGES, tools=peers.TOOLS[name], add_generation_prompt=False
        )
        assert made == text


@pytest.mark.parametrize("case", peers.CASES)
def test_what_transformers_says(case, tmp_path):
    transformers = pytest.importorskip("transformers", reason="It is the peer.")
    path = peers.write(tmp_path / "a", case)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    assert json.loads(json.dumps(peers.answers_of(tokenizer))) == ANSWERS[case]


PARTS = [*"abtheAB12 .,:?<|>\n\té日😀", "the", " the", "ana", "  ", "12", "\n\n"]
PARTS += ["<s>", "</s>", "<unk>", "<pad>", "<|user|>", "<|end|>", " <|end|> "]


@pytest.mark.slow
@pytest.mark.parametrize("case", peers.CASES)
def test_random_texts(case, tmp_path):
    """Encoding, prompts, decoding and chats of several hundred texts."""
    transformers = pytest.importorskip("transformers", reason="It is the peer.")
    path = peers.write(tmp_path / "a", case)
    tokenizer, peer = (
        load_tokenizer(path),
        transformers.AutoTokenizer.from_pretrained(path),
    )
    draw = random.Random(case)
    for _ in range(400):
        text = "".join(draw.choices(PARTS, k=draw.randint(1, 24)))
        ids = peer.encode(text, add_special_tokens=False)
        assert tokenizer.encode(text) == ids, repr(text)
        assert tokenizer.encode_prompt(text) == peer(text).input_ids, repr(text)
        shown = peer.decode(ids, skip_special_tokens=True)
        assert tokenizer.decode(ids) == shown, repr(text)
        if peer.chat_template is not None:
            messages = [{"role": "user", "content": text, "name": None}]
            for tools in (None, [peers.lookup]):
                made = tokenizer.chat(messages, tools=tools)
                said = peer.apply_chat_template(
                    messages, tools=tools, add_generation_prompt=True, return_dict=False
                )
                assert made == said, repr(text)
