"""What continues a conversation, and what does not, without a model."""

import pytest


pytest.importorskip("starlette", reason="needs the extra `serve`")

from grpojax.host import ToolCall  # noqa: E402
from grpojax.runs.agents.conversation import Conversation  # noqa: E402
from grpojax.runs.serve.generation import Completion, Generation  # noqa: E402
from grpojax.runs.serve.protocol.fields import Reader, RefusedError  # noqa: E402

from ...envs.double import ByteTokenizer  # noqa: E402


TEMPLATE = (
    "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name }}{% endfor %}|"
    "{% endfor %}a:"
)
TOKENIZER = ByteTokenizer(TEMPLATE)


class Answered(Generation):
    """A generation that has ended with a text, or that its client has left."""

    def __init__(self, text, *, calls=(), shown=None, cancelled=False, ends=True):
        tokens = [*TOKENIZER.encode(text), *([0] if ends else [])]
        text = text if shown is None else shown
        self.cancelled = cancelled
        self.completions = [
            Completion(
                [], tokens, [-0.5] * len(tokens), [], text, "stop", text, list(calls)
            )
        ]

    def cancel(self):
        pass


def start(**options):
    return Conversation(TOKENIZER, options.get("prompt", 40), options.get("room", 60))


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def chat(conversation, *messages, answer=None, **more):
    tokens = conversation.ask(Reader({"messages": list(messages), **more}), True)
    if answer is not None:
        conversation.begin(answer)
    return TOKENIZER.decode(tokens)


def text(conversation, prompt, answer=None):
    tokens = conversation.ask(Reader({"prompt": prompt}), False)
    if answer is not None:
        conversation.begin(answer)
    return tokens if isinstance(prompt, list) else TOKENIZER.decode(tokens)


def test_a_chat_keeps_what_was_sampled():
    talk = start()
    assert chat(talk, user("hi"), answer=Answered(" yes ")) == "u:hi|a:"
    # The client has trimmed it; the tokens stay as they were sampled.
    more = [user("hi"), assistant("yes"), user("and?")]
    found = chat(talk, *more, answer=Answered("no"))
    assert found == "u:hi|a: yes |u:and?|a:" or found.endswith("u:and?|a:")
    recorded = talk.close()
    assert TOKENIZER.decode(recorded.prompt) == "u:hi|a:"
    own = [x for x, y in zip(recorded.tokens, recorded.sampled, strict=True) if y]
    assert TOKENIZER.decode(own) == " yes no" and recorded.ended
    assert [x for x in recorded.log_probs if x] == [-0.5] * len(own)


def test_calls_of_tools_are_compared_by_name():
    talk = start()
    called = Answered("add", calls=[ToolCall("add", {})], shown="")
    chat(talk, user("hi"), answer=called)
    call = {"function": {"name": "add", "arguments": "{}"}}
    result = {"role": "tool", "content": "5"}
    for other in ({}, {"tool_calls": [{"function": {"name": "sub"}}]}):
        with pytest.raises(RefusedError, match="continues its conversation"):
            chat(talk, user("hi"), assistant("", **other), result)
    found = chat(talk, user("hi"), assistant("", tool_calls=[call]), result)
    assert found.endswith("5\n</tool_response>|a:")


@pytest.mark.parametrize(
    "messages",
    [
        [user("hi")],
        [user("hi"), assistant("yes")],
        [user("ho"), assistant("yes"), user("and?")],
        [user("hi"), assistant("no"), user("and?")],
        [user("hi"), user("yes"), user("and?")],
    ],
    ids=["again", "nothing new", "other", "another answer", "no answer"],
)
def test_a_chat_that_does_not_continue(messages):
    talk = start()
    chat(talk, user("hi"), answer=Answered("yes"))
    with pytest.raises(RefusedError, match="continues its conversation"):
        chat(talk, *messages)
    with pytest.raises(RefusedError, match="continues its conversation"):
        text(talk, "u:hi|a:yes more")
    more = [user("hi"), assistant("yes"), user("and?")]
    with pytest.raises(RefusedError, match="continues its conversation"):
        chat(talk, *more, chat_template_kwargs={"x": 1})
    assert chat(talk, *more).endswith("u:and?|a:")  # What was refused is forgotten.


def test_a_text_continues_after_its_stop_string():
    for rest in ("=5.", "5."):
        talk = start()
        text(talk, "2+3", Answered("+0=", shown="+0", ends=False))
        assert text(talk, f"2+3+0{rest}") == "2+3+0=5."


def test_tokens_continue():
    talk = start()
    text(talk, [[9, 8]], Answered("a", ends=False))
    a = TOKENIZER.encode("a")
    with pytest.raises(RefusedError, match="continues its conversation"):
        text(talk, [9, 8, *TOKENIZER.encode("b"), 5])
    assert text(talk, [9, 8, *a, 5]) == [9, 8, *a, 5]


def test_calls_come_one_after_the_other():
    talk = start()
    text(talk, "a")
    with pytest.raises(RefusedError, match="one after the other"):
        text(talk, "a")
    talk.begin(Answered("lost", cancelled=True))
    assert text(talk, "b") == "b"  # Nobody has read the first one.
    talk.begin(Answered("c"))
    assert TOKENIZER.decode(talk.close().tokens) == "c\0"[:1]


def test_prompts_and_conversations_that_are_too_long():
    talk = start(prompt=3, room=6)
    with pytest.raises(RefusedError, match="at most 3 tokens. Received 4"):
        text(talk, "abcd")
    text(talk, "abc", Answered("d", ends=False))
    assert talk.left == 6
    assert text(talk, "abcdefg") == "abcdefg" and talk.left == 2
    talk.begin(Answered("", ends=False))
    with pytest.raises(RefusedError, match="no room for a completion"):
        text(talk, "abcdefghij")
    assert talk.full and not talk.close().ended
