"""Chat templates, against strings written by hand."""

import datetime

import pytest

from grpojax.text import load_tokenizer
from tests.helpers import mostly_slow


CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{{ message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TURNS = [
    {"role": "user", "content": "1 + 1?"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "<b> & é"},
]


@pytest.fixture
def say(directory):
    """Renders a template, with bos and eos declared."""
    names = {"bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>"}}

    def render(template, messages=TURNS, **variables):
        made = directory(tokenizer_config=names, chat_template=template)
        return load_tokenizer(made).chat_text(messages, **variables)

    return render


def test_chatml(say):
    assert say(CHATML, add_generation_prompt=False) == (
        "<|im_start|>user\n1 + 1?<|im_end|>\n"
        "<|im_start|>assistant\n2<|im_end|>\n"
        "<|im_start|>user\n<b> & é<|im_end|>\n"
    )
    assert say(CHATML, TURNS[:1]) == (
        "<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_blocks_leave_no_space(say):
    template = """
    {%- for message in messages %}
    {% if message.role == "user" %}
<u>{{ message.content }}</u>
    {% else %}
<a>{{ message.content }}</a>
    {% endif %}
    {% endfor %}
end
"""
    expected = "<u>1 + 1?</u>\n<a>2</a>\n<u><b> & é</u>\nend"
    assert say(template) == expected


def test_special_tokens_and_roles(say):
    template = (
        "{{ bos_token }}{% for message in messages %}"
        "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Roles must alternate') }}{% endif %}"
        "{% if message['role'] == 'user' %}"
        "{{ '[INST] ' + message['content'] + ' [/INST]' }}"
        "{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
        "{{ pad_token }}"
    )
    assert say(template) == (
        "<|im_start|>[INST] 1 + 1? [/INST]2<|im_end|>[INST] <b> & é [/INST]"
    )
    with pytest.raises(ValueError, match="Received from it: Roles must alternate"):
        say(template, TURNS[1:])


def test_filters_and_globals(say):
    assert say("{{ messages[2] | tojson }}") == '{"role": "user", "content": "<b> & é"}'
    assert say("{{ x | tojson(indent=1) }}", x=[1]) == "[\n 1\n]"
    year = datetime.datetime.now().year
    assert int(say("{{ strftime_now('%Y') }}")) in (year, year + 1)
    loop = "{% for m in messages %}{{ m.role }}{% break %}{% endfor %}"
    assert say(loop) == "user"
    assert say("{% if tools is none and not documents %}none{% endif %}") == "none"
    assert say("{{ tools[0] }}", tools=["add"]) == "add"
    assert say("{{ enable_thinking }}", enable_thinking=False) == "False"


def test_generation_blocks_are_their_content(say):
    template = (
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %},"
        "{% endfor %}"
    )
    assert say(template) == "1 + 1?,2,<b> & é,"


def test_templates_run_in_a_sandbox(say):
    with pytest.raises(ValueError, match="SecurityError"):
        say("{{ ''.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(ValueError, match="SecurityError"):
        say("{{ messages.append(1) }}")


REFUSED = {
    "{{ raise_exception('no system role') }}": "no system role",
    "{{ messages[0].nothing.content }}": "has no attribute 'nothing'",
    "{{ nothing.content }}": "'nothing' is undefined",
    "{{ messages[0].content + 1 }}": "TypeError",
    "{{ 1 / 0 }}": "division by zero",
    "{{ messages | nothing }}": "No filter named 'nothing'",
    "{% for m in messages %}": "Unexpected end of template",
    "{% include 'other' %}": "no loader",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "calls itself without an end",
    "{{ range(10 ** 9) }}": "result of a call would be too large",
    "{{ 'a' * 10 ** 9 }}": "result of `\\*` would be too large",
    "{{ 10 ** 10 ** 9 }}": "too large",
    "{{ '%1000000000d' % 1 }}": "too large",
    "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}": (
        "loops have not ended"
    ),
    "{{ 'a'.ljust(10 ** 9) }}": "result of a call would be too large",
    "{{ ('a' * 999999).replace('a', 'b' * 999) }}": "result of a call",
    "{{ 'a' | center(999999999) }}": "result of a call would be too large",
    "{{ '{:>999999999}'.format(1) }}": "width of a format would be too large",
    "{{ '%999999999d' | format(1) }}": "width of a format would be too large",
    "{% macro f(n) %}{{ f(n - 1) ~ f(n - 1) if n }}{% endmacro %}{{ f(40) }}": (
        "ha(s|ve) not ended after"
    ),
    "{% macro f(n) %}{% for i in range(9) %}{{ f(n - 1) if n }}{% endfor %}"
    "{% endmacro %}{{ f(30) }}": "loops have not ended",
    "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}"
    "{% endfor %}": "result of `~` would be too large",
    "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}"
    "{% endfor %}": "result of `\\+` would be too large",
}


@pytest.mark.parametrize(
    "template", mostly_slow(REFUSED, {x for x in REFUSED if "macro f" not in x})
)
def test_what_goes_wrong_is_said_in_the_template_s_words(say, template):
    with pytest.raises(ValueError, match=REFUSED[template]) as error:
        say(template)
    assert str(error.value).startswith("The chat template does not take")


def test_a_date_may_be_given(directory):
    made = directory(chat_template="{{ strftime_now('%d %b %Y') }}{{ 1 ~ 'a' }}")
    for day in (9, 10):
        tokenizer = load_tokenizer(made, today=datetime.date(2025, 3, day))
        assert tokenizer.chat_text(TURNS) == f"{day:02} Mar 20251a"


def test_where_a_template_comes_from(directory):
    named = [
        {"name": "tool_use", "template": "tools"},
        {"name": "default", "template": "named"},
    ]
    made = directory(tokenizer_config={"chat_template": "config"})
    assert load_tokenizer(made).chat_text(TURNS) == "config"
    made = directory(tokenizer_config={"chat_template": named})
    assert load_tokenizer(made).chat_text(TURNS) == "named"
    made = directory(chat_template="file")
    assert load_tokenizer(made).chat_text(TURNS) == "file"


def test_tokens(kind, directory):
    tokenizer = load_tokenizer(directory(kind, chat_template=CHATML))
    start, end = map(tokenizer.token_id, ("<|im_start|>", "<|im_end|>"))
    ids = tokenizer.chat(TURNS[:1])
    assert ids == tokenizer.encode(tokenizer.chat_text(TURNS[:1]))
    assert [ids.count(start), ids.count(end), ids[0]] == [2, 1, start]
    said = tokenizer.decode(ids[1 : ids.index(end)])
    # sentencepiece's own defaults, which `unigram` has, leave nothing of a line break.
    assert said.split() == ["user", "1", "+", "1?"]


def test_sentencepiece_brings_its_own_names(directory):
    made = directory(
        "bpe", chat_template="{{ bos_token }}7{{ eos_token }}{{ unk_token }}"
    )
    tokenizer = load_tokenizer(made)
    assert tokenizer.chat_text(TURNS) == "<s>7</s><unk>"
    assert tokenizer.chat(TURNS)[0] == tokenizer.bos_token


def test_messages(directory):
    with pytest.raises(ValueError, match="Add one, or use `encode`"):
        load_tokenizer(directory()).chat(TURNS)
    tokenizer = load_tokenizer(directory(chat_template=CHATML))
    with pytest.raises(ValueError, match="wrap the text as"):
        tokenizer.chat([{"content": "1 + 1?"}])
