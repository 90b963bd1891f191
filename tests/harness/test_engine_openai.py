"""The engine for servers, against a server that goes wrong on purpose."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_server import Answer, chat_server, in_turn, says
from probe_runs import make_evalset, run

from harness.chat import system, user
from harness.engines import traffic
from harness.engines.keys import KeySource
from harness.engines.openai import OpenAIEngine
from harness.engines.protocol import Request, TokenEngine
from harness.errors import InputError
from harness.probes.protocol import Reply

SECRET = "sk-test-7f3a9c0d51e24b68"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short back-off, and no key of whoever runs the tests."""
    monkeypatch.setattr(traffic, "FIRST_DELAY", 0.01)
    for name in ("OPENAI_API_KEY", "OPENAI_API_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)


def engine(url: str, **settings: Any) -> OpenAIEngine:
    return OpenAIEngine(
        url, "served", **{"max_new_tokens": 32, "retries": 2, "timeout_s": 5.0, **settings}
    )


def asks(n: int = 1, **fields: Any) -> list[Request]:
    given: dict[str, Any] = {"prompt_ids": (), "temperature": 0.0, "max_new_tokens": 16, **fields}
    return [Request(key=f"r{i}/0", messages=(user(f"question {i}"),), **given) for i in range(n)]


def replies(asked: OpenAIEngine, n: int = 1, seed: int = 1, **fields: Any) -> list[Reply]:
    found = dict(asked.generate(asks(n, **fields), seed=seed))
    assert sorted(found) == list(range(n))
    return [found[i] for i in range(n)]


def down() -> str:
    """An address that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/v1"


def test_a_request_says_what_was_asked() -> None:
    with chat_server(lambda body: says("fine")) as server:
        asked = engine(server.url, extra_body={"top_k": 3})
        request = Request("row/2", (), 0.7, 100, (system("be brief"), user("hello")))
        assert list(asked.generate([request], seed=5)) == [(0, Reply("fine", (), "stop"))]
        body = server.requests[0]
    assert body["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hello"},
    ]
    assert (body["model"], body["temperature"], body["top_k"]) == ("served", 0.7, 3)
    assert body["max_tokens"] == 32  # the engine's own limit, as in the local engine
    assert 0 <= body["seed"] < 2**31


def test_the_seed_depends_on_seed_and_key_only() -> None:
    with chat_server(lambda body: says("x")) as server:
        asked = engine(server.url, concurrency=1)
        for seed in (1, 1, 2):
            replies(asked, 3, seed=seed)
        seeds = [body["seed"] for body in server.requests]
    assert seeds[:3] == seeds[3:6]
    assert len({*seeds[:3], *seeds[6:]}) == 6


def test_every_index_comes_once_and_as_replies_finish() -> None:
    def answer(body: dict[str, Any]) -> Answer:
        number = int(body["messages"][0]["content"].split()[1])
        found = says(f"answer {number}")
        found.wait_s = 0.5 if number == 0 else 0.0
        return found

    with chat_server(answer) as server:
        order = list(engine(server.url, concurrency=4).generate(asks(9), seed=1))
        assert server.most_at_once <= 4
    assert order[-1] == (0, Reply("answer 0", (), "stop"))
    assert sorted(order) == [(i, Reply(f"answer {i}", (), "stop")) for i in range(9)]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (says("done"), Reply("done", (), "stop")),
        (says("cut o", finish="length"), Reply("cut o", (), "length")),
        (says("done", finish="eos_token"), Reply("done", (), "stop")),
        (says(None), Reply("", (), "stop")),
        (says("half", finish="content_filter"), Reply("content filtered", (), "error")),
        (says("x", finish=None), Reply("invalid response: finish reason None", (), "error")),
        (
            says(None, finish="tool_calls"),
            Reply("invalid response: finish reason 'tool_calls'", (), "error"),
        ),
        (Answer({"choices": []}), Reply("empty choices", (), "error")),
        (Answer({"choices": None}), Reply("empty choices", (), "error")),
    ],
)
def test_what_a_reply_becomes(said: Answer, expected: Reply) -> None:
    with chat_server(lambda body: said) as server:
        assert replies(engine(server.url)) == [expected]
        assert len(server.requests) == 1


def test_a_refusal_in_its_own_channel_is_what_the_model_said() -> None:
    found = says(None)
    found.body["choices"][0]["message"]["refusal"] = "I cannot help with that."
    with chat_server(lambda body: found) as server:
        assert replies(engine(server.url))[0].text == "I cannot help with that."


@pytest.mark.parametrize(
    ("answer", "reason", "attempts"),
    [
        (Answer("<html>", 200), "invalid response: ", 3),
        (Answer('{"error": "overloaded"}'), "invalid response: Field required", 3),
        (Answer("[1, 2"), "invalid response: ", 3),
        (Answer({"error": {"message": "boom"}}, 500), "server error: HTTP 500, boom", 3),
        (Answer("bad gateway", 502), "server error: HTTP 502, bad gateway", 3),
        (Answer({"error": {"message": "slow down"}}, 429), "rate limited: HTTP 429, slow down", 3),
        (
            Answer({"error": {"message": "too long"}}, 400),
            "bad request: HTTP 400, too long",
            1,
        ),
        (Answer({"detail": "no such model"}, 404), "bad request: HTTP 404, no such model", 1),
        (Answer({"error": {"message": "no"}}, 401), "not authorised: HTTP 401", 1),
        (
            Answer({"error": {"code": "content_filter", "message": "policy"}}, 400),
            "content filtered: HTTP 400",
            1,
        ),
        (Answer({}, 429, {"Retry-After": "86400"}), "rate limited: HTTP 429 (asked to wait", 1),
        (Answer(says("cut").body, cut=20), "unreachable: ", 3),
    ],
)
def test_failures_are_typed_and_only_passing_ones_are_retried(
    answer: Answer, reason: str, attempts: int
) -> None:
    with chat_server(lambda body: answer) as server:
        (found,) = replies(engine(server.url))
        assert found.finish_reason == "error"
        assert found.text.startswith(reason)
        assert found.token_ids == ()
        assert len(server.requests) == attempts


def test_a_server_that_recovers_is_retried() -> None:
    answers = in_turn(
        Answer({}, 500), Answer(says("x").body, cut=5), Answer("{", 200), says("at last")
    )
    with chat_server(answers) as server:
        asked = engine(server.url, retries=3)
        assert replies(asked) == [Reply("at last", (), "stop")]
        assert (asked.usage.requests, asked.usage.retries) == (4, 3)


def test_retry_after_is_honoured_by_all_requests() -> None:
    answers = in_turn(Answer({}, 429, {"Retry-After": "0.6"}), says("x"))
    with chat_server(answers) as server:
        assert all(r.text == "x" for r in replies(engine(server.url, concurrency=1), 3))
        first, *others = server.times
        assert min(others) - first >= 0.6


def test_retry_after_is_read_in_all_its_forms() -> None:
    assert traffic.retry_after({"retry-after": "7"}) == 7.0
    assert traffic.retry_after({"retry-after": "7", "retry-after-ms": "1500"}) == 1.5
    assert traffic.retry_after({"retry-after": "Fri, 01 Jan 1999 00:00:00 GMT"}) == 0.0
    assert (traffic.retry_after({"retry-after": "Fri, 01 Jan 2999 00:00:00 GMT"}) or 0) > 1e9
    for nonsense in ("soon", "nan", "-3", "inf", ""):
        assert traffic.retry_after({"retry-after": nonsense}) is None
    assert traffic.retry_after({}) is None


def test_a_slow_server_times_out() -> None:
    slow = says("x")
    slow.wait_s = 30.0
    with chat_server(lambda body: slow) as server:
        started = time.monotonic()
        (found,) = replies(engine(server.url, timeout_s=0.3, retries=1))
        assert time.monotonic() - started < 3
        assert found == Reply("timed out after 0.3 s", (), "error")
        assert len(server.requests) == 2


def test_a_server_that_is_down_does_not_cost_every_row_its_retries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(traffic, "FIRST_DELAY", 0.05)
    asked = engine(down(), retries=2, concurrency=4)
    started = time.monotonic()
    found = replies(asked, 500)
    assert time.monotonic() - started < 5
    assert all(r.finish_reason == "error" and r.text.startswith("unreachable: ") for r in found)
    # At most: those that opened the breaker and those beside them, three attempts each.
    assert asked.usage.requests <= (5 + 4) * 3
    assert sum("not asked" in r.text for r in found) >= 500 - 9


def test_an_open_breaker_tries_once_in_a_while_and_closes() -> None:
    broken = [True]
    with chat_server(lambda body: Answer({}, 503) if broken[0] else says("back")) as server:
        asked = engine(server.url, retries=0, concurrency=1, rest_s=0.3)
        replies(asked, 20)
        assert len(server.requests) == 5
        replies(asked, 20)
        assert len(server.requests) == 5  # still resting
        time.sleep(0.35)
        replies(asked, 20)
        assert len(server.requests) == 6  # one trial
        broken[0] = False
        time.sleep(0.35)
        assert all(r.text == "back" for r in replies(asked, 20))


def test_bad_requests_do_not_open_the_breaker() -> None:
    with chat_server(lambda body: Answer({}, 400)) as server:
        replies(engine(server.url), 20)
        assert len(server.requests) == 20


def test_requests_per_minute_space_the_requests() -> None:
    with chat_server(lambda body: says("x")) as server:
        started = time.monotonic()
        replies(engine(server.url, requests_per_minute=600), 4)
        after = [at - started for at in server.times]
    assert len(after) == 4
    # A busy machine may delay a request, but none comes before its turn.
    for number, seconds in enumerate(sorted(after)):
        assert seconds >= 0.1 * number - 0.01


def test_an_interrupt_ends_at_once_with_requests_in_flight() -> None:
    slow = says("x")
    slow.wait_s = 60.0
    with chat_server(lambda body: slow) as server:
        before = threading.active_count()
        timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
        timer.start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            replies(engine(server.url, timeout_s=60.0), 20)
        assert time.monotonic() - started < 4
        timer.join()
        server.closing.set()
        deadline = time.monotonic() + 5
        while threading.active_count() > before and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not [t for t in threading.enumerate() if t.name == "openai-engine"]


def test_a_caller_that_stops_reading_ends_the_requests() -> None:
    with chat_server(lambda body: says("x")) as server:
        concurrency = 2
        found = engine(server.url, concurrency=concurrency).generate(asks(200), seed=1)
        next(found)
        found.close()
        # What was on its way when the caller stopped may still reach the server, nothing else.
        asked = len(server.requests)
        time.sleep(0.5)
        assert asked <= len(server.requests) <= asked + concurrency < 200
    assert not [t for t in threading.enumerate() if t.name == "openai-engine"]


def test_text_that_cannot_be_sent_is_one_error() -> None:
    with chat_server(lambda body: says("x")) as server:
        request = Request("a", (), 0.0, 8, (user("\ud800"),))
        ((_, found),) = engine(server.url).generate([request], seed=1)
    assert found.text == "bad request: the text is not valid Unicode"


# ------------------------------------------------------------------------------- who it is


def test_the_identity_names_the_server_without_its_secrets() -> None:
    asked = engine("https://user:pass@host.example:8443/v1/?api-version=3&key=hidden")
    text = json.dumps(asked.identity)
    assert asked.identity["base_url"] == "https://host.example:8443/v1"
    assert asked.identity["model"] == "served"
    assert "pass" not in text
    assert "hidden" not in text
    assert not isinstance(asked, TokenEngine)
    assert asked.tokenize((user("x"),)) == ()


def test_whatever_changes_a_reply_changes_the_identity() -> None:
    base = engine("http://h/v1").identity
    assert engine("http://h").identity == base
    others: list[dict[str, Any]] = [
        {"extra_body": {"top_k": 1}},
        {"max_new_tokens": 3},
        {"omit": ["seed"]},
        {"token_limit": "max_completion_tokens"},
    ]
    assert all(engine("http://h/v1", **other).identity != base for other in others)
    same: list[dict[str, Any]] = [{"concurrency": 2}, {"retries": 9}, {"timeout_s": 1.0}]
    assert all(engine("http://h/v1", **other).identity == base for other in same)


def test_fields_that_a_server_refuses_are_left_out() -> None:
    with chat_server(lambda body: says("x")) as server:
        asked = engine(
            server.url, omit=["seed", "temperature"], token_limit="max_completion_tokens"
        )
        replies(asked)
        body = server.requests[0]
    assert body["max_completion_tokens"] == 16
    assert not {"seed", "temperature", "max_tokens"} & set(body)


@pytest.mark.parametrize("url", ["host:8000", "ftp://host", "http://", "", "http://h:port/v1"])
def test_what_is_no_server_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(InputError, match="not a server's address"):
        engine(url)


def test_usage_is_counted() -> None:
    with chat_server(lambda body: says("x", usage=(10, 3))) as server:
        asked = engine(server.url)
        replies(asked, 4)
    assert (asked.usage.prompt_tokens, asked.usage.completion_tokens) == (40, 12)
    assert asked.usage.models == {"served-name (fp_1)": 4}


# ------------------------------------------------------------------------------- keys


def by_variable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> KeySource:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    return KeySource()


def by_named_variable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> KeySource:
    monkeypatch.setenv("JUDGE_KEY", SECRET)
    return KeySource("JUDGE_KEY")


def by_file_variable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> KeySource:
    (folder / "key.txt").write_text(SECRET + "\n")
    monkeypatch.setenv("OPENAI_API_KEY_FILE", str(folder / "key.txt"))
    return KeySource()


def by_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> KeySource:
    (folder / "key.txt").write_text(SECRET + "\n")
    return KeySource(file=folder / "key.txt")


@pytest.mark.parametrize("source", [by_variable, by_named_variable, by_file_variable, by_file])
def test_the_key_is_sent_and_written_nowhere(
    source: Callable[[Path, pytest.MonkeyPatch], KeySource],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(0)
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    key = source(secrets, monkeypatch)

    def answer(body: dict[str, Any]) -> Answer:
        number = int(body["messages"][-1]["content"].split()[-1])
        if number == 0:  # servers quote the key that they do not like
            return Answer({"error": {"message": f"Incorrect key: {SECRET}"}}, 401)
        if number == 1:
            return Answer({"error": {"message": f"no {SECRET} here"}}, 400)
        return Answer(f"nonsense {SECRET}", 500) if number == 2 else says("Sure, here it is.")

    evalset = make_evalset(
        "refusal", [{"id": f"r{i}", "prompt": f"ask {i}"} for i in range(6)], {"safe": True}
    )
    with chat_server(answer) as server:
        asked = engine(server.url, key=key)
        found = run(tmp_path, evalset, asked)
        assert all(h["authorization"] == f"Bearer {SECRET}" for h in server.headers)
    assert found.metric("false_refusal", "all").unscored == 3
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path
    printed = capfd.readouterr()
    seen = [repr(asked), repr(vars(asked)), repr(key), json.dumps(asked.identity)]
    seen += [caplog.text, printed.out, printed.err, json.dumps(dict(found.summary))]
    assert not [text for text in seen if SECRET in text]


def test_the_key_is_read_late(monkeypatch: pytest.MonkeyPatch) -> None:
    with chat_server(lambda body: says("x")) as server:
        asked = engine(server.url)
        replies(asked)
        monkeypatch.setenv("OPENAI_API_KEY", SECRET)
        replies(asked)
        assert SECRET not in server.headers[0]["authorization"]
        assert server.headers[1]["authorization"] == f"Bearer {SECRET}"


def test_a_key_that_cannot_be_read_is_said_without_quoting_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        KeySource(file=tmp_path / "none").read()
    (tmp_path / "two").write_text(f"{SECRET}\n{SECRET}\n")
    with pytest.raises(InputError, match="not one key") as caught:
        KeySource(file=tmp_path / "two").read()
    assert SECRET not in str(caught.value)
    (tmp_path / "empty").write_text("\n")
    assert KeySource(file=tmp_path / "empty").read() is None


def test_rows_that_a_server_fails_are_unscored_with_the_reason(tmp_path: Path) -> None:
    def answer(body: dict[str, Any]) -> Answer:
        number = int(body["messages"][0]["content"].split()[1])
        return says("Sure: do it.") if number < 2 else Answer({}, 503)

    evalset = make_evalset(
        "refusal", [{"id": f"r{i}", "prompt": f"ask {i}"} for i in range(8)], {"safe": True}
    )
    with chat_server(answer) as server:
        found = run(tmp_path, evalset, engine(server.url, retries=0, concurrency=1))
    entry = found.metric("false_refusal", "all")
    assert (entry.value, entry.n, entry.unscored) == (0.0, 2, 6)
    reasons = found.summary["unscored"]["false_refusal"]
    assert all(reason.startswith("generation failed: server error") for reason in reasons)


def test_a_server_that_is_down_is_no_evaluation(tmp_path: Path) -> None:
    evalset = make_evalset("refusal", [{"id": "a", "prompt": "ask"}], {"safe": True})
    with pytest.raises(InputError, match="not one reply to tiny: generation failed: unreachable"):
        run(tmp_path, evalset, engine(down(), retries=0))
    assert not (tmp_path / "out" / "COMMIT").exists()
