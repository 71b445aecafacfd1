"""Tokenizers, prompts and templates equal those of `transformers`."""

import json

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
