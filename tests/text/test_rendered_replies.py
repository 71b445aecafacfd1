"""Replies to a turn, against the rendering of the whole conversation."""

import numpy as np
import pytest

from grpojax.host._episode import spelled
from grpojax.host._render import render_reply
from grpojax.text import load_tokenizer


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% for c in m.tool_calls or [] %}"
    "{{ '<tool_call>\n' + (c.function | tojson) + '\n</tool_call>' }}{% endfor %}"
    "{{ (m.content or '') + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Llama 3 has results of tools in a role of their own, and names it `ipython`.
LLAMA = (
    "{{ '<s>' }}{% for m in messages %}"
    "{% set role = 'ipython' if m.role == 'tool' else m.role %}"
    "{{ '<|im_start|>' + role + '\n\n' }}"
    "{% if m.tool_calls %}"
    '{{ \'{"name": "\' + m.tool_calls[0].function.name + \'", "parameters": \' }}'
    "{{ m.tool_calls[0].function.arguments | tojson }}{{ '}' }}"
    "{% else %}{{ m.content | trim }}{% endif %}{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n\n' }}{% endif %}"
)
# Mistral's has no prefix of an answer, and wants the calls before their results.
MISTRAL = (
    "{{ '<|im_start|>' }}{% for m in messages %}"
    "{% if m.role == 'user' %}{{ '[INST] ' + m.content + '[/INST]' }}"
    "{% elif m.role == 'tool' %}"
    "{% if not messages[loop.index0 - 1].tool_calls and "
    "messages[loop.index0 - 1].role != 'tool' %}"
    "{{ raise_exception('no calls') }}{% endif %}"
    "{{ '[TOOL_RESULTS] ' + ({'content': m.content} | tojson) + '[/TOOL_RESULTS]' }}"
    "{% elif m.tool_calls %}{{ '[TOOL_CALLS] ' + (m.tool_calls | tojson) }}"
    "{{ '<|im_end|>' }}"
    "{% else %}{{ ' ' + m.content + '<|im_end|>' }}{% endif %}{% endfor %}"
)
# Gemma's takes users and assistants, in turn.
GEMMA = (
    "{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEMPLATES = {"chatml": CHATML, "llama": LLAMA, "mistral": MISTRAL, "gemma": GEMMA}
NAMES = {"bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>"}}
ASKED = {"role": "user", "content": "How many apples?"}
SAID = {"role": "assistant", "content": "I ate 2."}
USER = {"role": "user", "content": "Are you sure?"}


@pytest.fixture
def make(directory):
    def load(name, kind="byte_level"):
        made = directory(kind, tokenizer_config=NAMES, chat_template=TEMPLATES[name])
        return load_tokenizer(made)

    return load


def text_after(tokenizer, replies, *, ended=True, room=999):
    tokens = render_reply(tokenizer, replies, chat=True, ended=ended, room=room)
    return spelled(tokenizer, tokens)


@pytest.mark.laws
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_reply_is_the_difference_of_two_renderings(name, make):
    tokenizer = make(name)
    every = tokenizer.chat_text([ASKED, SAID, USER])
    before = tokenizer.chat_text([ASKED]) + SAID["content"]
    if name == "mistral":
        before = tokenizer.chat_text([ASKED]) + " " + SAID["content"]
    assert before + "<|im_end|>" + text_after(tokenizer, [USER]) == every
    # After a stop string the turn's end is a part of the reply.
    assert before + text_after(tokenizer, [USER], ended=False) == every


@pytest.mark.laws
@pytest.mark.parametrize("name", ["chatml", "llama", "mistral"])
def test_results_of_tools_are_rendered_as_the_template_has_them(name, make):
    tokenizer = make(name)
    function = {"name": "add", "arguments": {"a": 2}}
    call = {"type": "function", "id": "call00001", "function": function}
    said = {"role": "assistant", "content": "", "tool_calls": [call]}
    found = "14.0", '{"quoted":\n"3"}'
    results = [{"role": "tool", "name": "add", "content": x} for x in found]
    for count in (1, 2):
        every = tokenizer.chat_text([ASKED, said, *results[:count]])
        reply = text_after(tokenizer, results[:count])
        assert every.endswith("<|im_end|>" + reply) and "14.0" in reply
        assert ("3" in reply) == (count == 2)


def test_a_template_without_tools_has_the_user_say_the_results(make):
    results = [{"role": "tool", "name": "add", "content": x} for x in ("14.0", "3")]
    reply = text_after(make("gemma"), results)
    said = "".join(f"<tool_response>\n{x}\n</tool_response>\n" for x in ("14.0", "3"))
    start = "\n<|im_start|>user\n"
    assert reply == f"{start}{said[:-1]}<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("kind", ["byte_level", "llama", "bpe"])
def test_any_text_is_a_reply(kind, make):
    tokenizer = make("chatml", kind)
    for content in ("a\ud800b", "", "日本\0", "x" * 2**20, " " * 2**20, 5):
        reply = {"role": "user", "content": content}
        tokens = render_reply(tokenizer, [reply], chat=True, ended=True, room=50)
        assert 0 < len(tokens) <= 50
        plain = render_reply(tokenizer, [reply], chat=False, ended=True, room=50)
        assert len(plain) <= 50 and (len(str(content)) < 100 or len(plain) > 2)
    assert render_reply(tokenizer, [USER], chat=True, ended=True, room=0) == []


def test_what_a_template_refuses_is_named(make):
    reply = {"role": "system", "content": "Stop."}
    with pytest.raises(ValueError, match="messages of system, which it refuses"):
        render_reply(make("gemma"), [reply], chat=True, ended=True, room=9)


def test_special_tokens_are_spelled_out(make):
    tokenizer = make("chatml")
    text = "<|im_start|>2 apples<|im_end|>"
    tokens = tokenizer.encode(text)
    assert spelled(tokenizer, tokens) == text
    assert tokenizer.decode(tokens) == "2 apples"
    assert np.asarray([tokenizer.is_skipped(x) for x in tokens]).sum() == 2


def test_prompts_offer_tools(directory):
    def add(a: int) -> int:
        """The sum.

        Args:
            a: a number.
        """
        return a

    template = "{{ (tools or []) | map(attribute='function.name') | join(',') }}!"
    tokenizer = load_tokenizer(
        directory(tokenizer_config=NAMES, chat_template=template)
    )
    described = tokenizer.with_tools([add])
    assert tokenizer.chat_text([ASKED]) == "!"
    assert described.chat_text([ASKED]) == "add!"
    assert described.chat_text([ASKED], tools=[]) == "!"
    with pytest.raises(ValueError, match="A tool of a chat is"):
        tokenizer.with_tools([load_tokenizer])
