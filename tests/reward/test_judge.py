"""A judge behind an endpoint that is slow, fails, talks nonsense and dies."""

import json
import pickle
import threading
import time

import jax
import numpy as np
import pytest

from grpojax.env import Rows
from grpojax.reward import HostReward, Judge, PermanentError
from grpojax.runs.io.description import describe

from .rows import trajectory_of
from .servers import Server
from .test_host import decode, failed_rows


def last_number(text, _):
    return f"I think so. Score: {text.split()[-1]}"


def judge_of(server, template="{{ completion }}", **options):
    options = {"score": r"Score: *(\d+)", "backoff": 0.01, **options}
    return Judge(server.url, "small", template, **options)


def asked(judge, rows, name="judge"):
    return HostReward(judge, decode, name=name)(rows)


ROWS = trajectory_of([[[k + 100 * p] for k in range(8)] for p in range(8)])
WANTED = [[k + 100 * p for k in range(8)] for p in range(8)]


def test_every_row_is_a_request_and_many_at_a_time():
    with Server(last_number, together=32).running() as server:
        rewards = asked(judge_of(server), ROWS)
    np.testing.assert_array_equal(rewards.total, WANTED)
    assert len(server.requests) == 64 and not rewards.errors["judge"].any()
    assert server.most == 32
    assert server.requests[0]["model"] == "small"
    assert server.requests[0]["temperature"] == 0.0
    with Server(last_number, together=3).running() as server:
        asked(judge_of(server, concurrency=3), ROWS)
    assert server.most == 3


def test_it_is_the_same_inside_a_program():
    with Server(last_number).running() as server:
        host = HostReward(judge_of(server), decode, name="judge")
        np.testing.assert_array_equal(jax.jit(host)(ROWS).total, WANTED)


@pytest.mark.parametrize("status", [429, 408, 500, 503])
def test_every_fifth_call_fails_and_is_repeated(status, caplog):
    def answer(text, number):
        return (status, None) if number % 5 == 0 else last_number(text, number)

    with Server(answer).running() as server:
        rewards = asked(judge_of(server), ROWS)
    np.testing.assert_array_equal(rewards.total, WANTED)
    failed = len(server.requests) // 5
    assert len(server.requests) == 64 + failed and not caplog.records


def test_nonsense_fails_its_row_alone_and_is_not_asked_again(caplog, tmp_path):
    def answer(text, _):
        row = int(text.split()[-1])
        return "As a language model" if row % 5 == 0 else last_number(text, 0)

    cache = tmp_path / "deep" / "judge.jsonl"
    with Server(answer).running() as server:
        judge = judge_of(server, cache=cache)
        rewards = asked(judge, ROWS)
        wanted = np.array(WANTED)
        bad = wanted % 5 == 0
        np.testing.assert_array_equal(rewards.total, np.where(bad, -1, wanted))
        np.testing.assert_array_equal(rewards.errors["judge"], bad)
        assert len(server.requests) == 64
        assert failed_rows(caplog, "judge") == bad.sum()
        assert "no score" in caplog.text and "As a language model" in caplog.text
        asked(judge, ROWS)  # Only what has no score is asked about again.
        assert len(server.requests) == 64 + bad.sum()


def test_a_server_that_dies_for_a_while_is_waited_for():
    server = Server(last_number)
    back = threading.Event()

    def later():
        time.sleep(0.4)
        with server.running():
            back.wait(60)

    thread = threading.Thread(target=later)
    thread.start()
    try:
        rewards = asked(judge_of(server, retries=12), ROWS)
    finally:
        back.set()
        thread.join()
    np.testing.assert_array_equal(rewards.total, WANTED)
    assert len(server.requests) == 64
    assert sum(Judge("http://h", "m", "t").calls.backoff * 2**k for k in range(5)) > 10


def test_a_server_that_is_not_there_and_one_that_refuses(caplog):
    server = Server(lambda *_: (401, None))
    rewards = asked(judge_of(server, retries=1), ROWS)
    assert rewards.errors["judge"].all() and "ConnectionRefused" in caplog.text
    caplog.clear()
    with server.running():
        rewards = asked(judge_of(server, retries=3), ROWS)
    assert rewards.errors["judge"].all() and len(server.requests) == 64
    assert "PermanentError: the judge answers 401" in caplog.text
    assert failed_rows(caplog, "judge") == 64


def test_the_server_says_how_long_to_wait(monkeypatch):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    row = trajectory_of([[[5]]])
    answers = lambda text, number: (429, "7") if number < 3 else last_number(text, 0)
    with Server(answers).running() as server:
        assert asked(judge_of(server), row).total.tolist() == [[5]]
    assert [x for x in pauses if x >= 1] == [7, 7]


def test_a_slow_answer_is_an_error_of_its_row(caplog):
    done = threading.Event()

    def answer(text, number):
        done.wait(0.0 if int(text.split()[-1]) else 60.0)
        return last_number(text, number)

    with Server(answer).running() as server:
        judge = judge_of(server, seconds=3.0, retries=0)
        rewards = asked(judge, trajectory_of([[[0], [1], [2]]]))
        done.set()
    np.testing.assert_array_equal(rewards.total, [[-1, 1, 2]])
    assert "imeout" in caplog.text


def test_the_cache_answers_for_a_resumed_run_and_survives_a_kill(tmp_path):
    cache = tmp_path / "judge.jsonl"
    with Server(last_number).running() as server:
        asked(judge_of(server, cache=cache), ROWS)
        assert len(server.requests) == 64
        again = asked(judge_of(server, cache=str(cache)), ROWS)
        np.testing.assert_array_equal(again.total, WANTED)
        assert len(server.requests) == 64
        text = cache.read_bytes()
        assert len(text.splitlines()) == 64
        cache.write_bytes(text[:-20])  # A kill in the middle of a line.
        asked(judge_of(server, cache=cache), ROWS)
        assert len(server.requests) == 65
        asked(judge_of(server, cache=cache), ROWS)
        assert len(server.requests) == 65
        # Another request is another answer.
        asked(judge_of(server, cache=cache, options={"max_tokens": 3}), ROWS)
        assert len(server.requests) == 129


def test_the_template_sees_the_row_and_the_parser_the_answer():
    rows = Rows({"question": ["2+3?", "1+1?"], "messages": [None, None]})
    made = trajectory_of([[[7]], [[8]]], rows=rows)
    template = "{{ question }}|{{ prompt }}|{{ completion }}"
    parse = lambda answer: None if "2+3" in answer else float(len(answer))
    with Server(lambda text, _: text).running() as server:
        judge = judge_of(server, template, parse=parse, system="Judge.")
        rewards = asked(judge, made)
    sent = sorted(x["messages"][-1]["content"] for x in server.requests)
    assert sent == ["1+1?|1|8", "2+3?|0|7"]
    assert server.requests[0]["messages"][0] == {"role": "system", "content": "Judge."}
    np.testing.assert_array_equal(rewards.valid, [[False], [True]])
    assert rewards.total.tolist() == [[0], [8]]


def test_messages_are_shown_to_the_judge_as_they_are():
    said = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "?"}]
    made = trajectory_of([[[7]]], rows=Rows({"messages": [said]}))
    with Server(lambda *_: "Score: 1").running() as server:
        asked(judge_of(server, "{{ prompt }}|{{ completion }}"), made)
    assert server.requests[0]["messages"][-1]["content"] == "Be kind.\n?|7"


def test_a_parser_that_fails_fails_its_row(caplog):
    with Server(lambda *_: "[]").running() as server:
        judge = judge_of(server, parse=json.loads)
        assert asked(judge, ROWS).errors["judge"].all()
        judge = judge_of(server, parse=lambda _: 1 / 0)
        assert asked(judge, trajectory_of([[[1]]])).errors["judge"].all()
    assert "ZeroDivisionError" in caplog.text


def test_the_key_is_sent_and_is_in_no_description():
    row = trajectory_of([[[5]]])
    with Server(last_number).running() as server:
        judge = judge_of(server, api_key="sk-hidden")
        asked(judge, row)
        assert server.headers[-1]["Authorization"] == "Bearer sk-hidden"
        asked(judge_of(server), row)
        assert "Authorization" not in server.headers[-1]
    shown = repr(judge) + str(describe(HostReward(judge, decode, name="judge")))
    assert "sk-hidden" not in shown and "small" in shown
    assert "sk-hidden" not in str(vars(judge))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url": "localhost:80"}, "`Judge.url` must be that of an endpoint"),
        ({"template": "{{ a"}, "`Judge.template` must be a jinja template.*line 1"),
        ({"score": "("}, "`Judge.score` must be a regular expression"),
        ({"concurrency": 0}, "`Calls.concurrency` must be at least 1. Received 0"),
        ({"retries": -1}, "`Calls.retries` must be at least 0"),
        ({"seconds": 0.0}, "`Calls.seconds` must be positive"),
    ],
)
def test_what_is_no_judge_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Judge(**{"url": "http://h/v1", "model": "m", "template": "t", **changes})


def test_a_column_that_is_missing_is_refused_before_anyone_is_asked():
    judge = Judge("http://127.0.0.1:9/v1", "m", "{{ quesion }} {{ completion }}")
    made = trajectory_of([[[7]]], rows=Rows({"question": ["?"]}))
    with pytest.raises(ValueError, match="needs quesion.*nearest.*is `question`"):
        HostReward(judge, decode, name="judge").inputs(made)


def test_an_error_that_is_permanent_is_picklable():
    assert str(pickle.loads(pickle.dumps(PermanentError("no")))) == "no"
