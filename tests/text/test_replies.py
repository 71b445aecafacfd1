"""Replies as what one rendering of a chat has and another has not."""

import pytest

from grpojax.text import load_tokenizer, reply_tokens, text_reply_tokens


CHATML = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for m in messages %}"
    "<|im_start|>{{ m['role'] }}\n\n{{ m['content'] | trim }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% set role = 'model' if m.role == 'assistant' else m.role %}"
    "<|im_start|>{{ role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
TEMPLATES = {"chatml": CHATML, "llama": LLAMA, "gemma": GEMMA, "mistral": MISTRAL}
NAMES = {"bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>"}}
ASKED = [{"role": "user", "content": "Guess my number."}]
REPLIES = ["Lower. Guess:", "She ate 3 é\n#### 4", "x"]


@pytest.fixture
def load(directory):
    def make(template, kind="byte_level", names=NAMES):
        made = directory(kind, tokenizer_config=names, chat_template=template)
        return load_tokenizer(made)

    return make


@pytest.mark.parametrize("kind", ["byte_level", "gemma", "metaspace", "bpe"])
@pytest.mark.parametrize("template", TEMPLATES)
def test_turns_and_replies_are_the_whole_conversation(load, template, kind):
    tokenizer = load(TEMPLATES[template], kind)
    found = reply_tokens(tokenizer, ASKED, REPLIES)
    end, start = tokenizer.end_tokens[0], tokenizer.chat(ASKED)
    messages, tokens, text = list(ASKED), list(start), tokenizer.chat_text(ASKED)
    for reply, own in zip([*REPLIES, REPLIES[0]], [*found, found[0]], strict=True):
        messages += [
            {"role": "assistant", "content": "7"},
            {"role": "user", "content": reply},
        ]
        # What the policy samples: its turn as the template writes it, and the end.
        rendered = tokenizer.chat_text(messages[:-1], add_generation_prompt=False)
        turn = rendered[len(text) :].partition("<|im_end|>")[0]
        assert turn.strip() == "7"
        before = tokenizer.encode(text + turn + "<|im_end|>")
        assert before[-1] == end
        tokens += [*before[len(tokens) : -1], end, *own]
        text = tokenizer.chat_text(messages)
        assert tokens == tokenizer.encode(text)


REFUSED = {
    # As Qwen3 without thinking: the beginning of a turn is not written in later ones.
    "begins otherwise": CHATML.replace("assistant\n'", "assistant\n<think></think>'"),
    # Only the last message is rendered.
    "leaves out": (
        "{{ messages[-1]['content'] }}"
        "{% if add_generation_prompt %}<|im_start|>{% endif %}"
    ),
    # As early Mistrals: instructions move to the last message.
    "moves": (
        "{% for m in messages %}{% if loop.last %}{{ messages | length }}{% endif %}"
        "{{ m['content'] }}<|im_end|>{% endfor %}"
    ),
}


@pytest.mark.parametrize("template", REFUSED)
def test_a_template_that_changes_earlier_turns_is_refused(load, template):
    with pytest.raises(ValueError, match="need a chat template that only adds"):
        reply_tokens(load(REFUSED[template]), ASKED, REPLIES)


def test_a_turn_ends_with_a_token_that_ends_one(load):
    template = CHATML.replace("<|im_end|>", "<|im_start|>")
    with pytest.raises(ValueError, match="ends with a token that ends one. Received"):
        reply_tokens(load(template), ASKED, REPLIES)


def test_a_refusal_of_the_template_is_said_in_its_words(load):
    system = [{"role": "system", "content": "Think."}, *ASKED]
    with pytest.raises(ValueError, match="no system role"):
        reply_tokens(load(GEMMA), system, REPLIES)


@pytest.mark.parametrize("kind", ["byte_level", "llama", "bpe_prefix"])
def test_a_reply_in_plain_text_continues_the_text(load, kind):
    tokenizer = load("", kind)
    (found,) = text_reply_tokens(tokenizer, ["She ate 3"])
    start = tokenizer.encode("Guess: 7\n")
    assert [*start, *found] == tokenizer.encode("Guess: 7\nShe ate 3")
    assert tokenizer.token_bytes.join(found) == b"She ate 3"
