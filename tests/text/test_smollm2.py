"""A real tokenizer: SmolLM2-135M-Instruct, on every text of GSM8K."""

import pytest

from grpojax.text import load_tokenizer


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tokenizer(smollm2):
    return load_tokenizer(smollm2)


@pytest.fixture(scope="module")
def texts(gsm8k):
    return [row[field] for row in gsm8k for field in ("question", "answer")]


def test_tokens_are_those_of_the_library(smollm2, tokenizer, texts):
    from tokenizers import Tokenizer

    library = Tokenizer.from_file(str(smollm2 / "tokenizer.json"))
    expected = [
        row.ids for row in library.encode_batch(texts, add_special_tokens=False)
    ]
    assert [tokenizer.encode(content) for content in texts] == expected


def test_bytes_are_the_texts(tokenizer, texts):
    table = tokenizer.token_bytes
    for content in texts[::7]:
        assert table.join(tokenizer.encode(content)) == content.encode()


def test_every_token_decodes_to_its_bytes(tokenizer):
    contents = [tokenizer.token_bytes.join([i]) for i in range(tokenizer.vocab_size)]
    assert len(contents) == 49152
    assert contents.count(b"") == 17  # The special tokens.
    for token, content in enumerate(contents):
        decoded = tokenizer.decode([token])
        assert decoded == content.decode(errors="replace") or "\ufffd" in decoded


def test_special_tokens(tokenizer):
    assert tokenizer.end_tokens == (2,)
    assert tokenizer.pad_token == 2  # The end token itself.
    assert tokenizer.bos_token == 1


def test_chat(tokenizer):
    messages = [{"role": "user", "content": "1 + 1?"}]
    assert tokenizer.chat_text(messages) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by "
        "Hugging Face<|im_end|>\n<|im_start|>user\n1 + 1?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    ids = tokenizer.chat(messages)
    assert ids[0] == 1 and ids.count(1) == 3 and ids.count(2) == 2
