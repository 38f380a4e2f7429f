"""The teacher's endpoint, against a real HTTP server on this machine that misbehaves on request."""

import gzip
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_server import Reply, Script, Server, completion

from crsearch.config import DistillConfig
from crsearch.errors import ConfigError, TeacherError
from crsearch.train.endpoint import ChatEndpoint, Messages, pause

Serve = Callable[[Script], Server]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[Server] = []

    def start(script: Script) -> Server:
        servers.append(Server(script))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def endpoint(server: Server, cache: Path, **settings: Any) -> ChatEndpoint:
    defaults = {"backoff": 0.01, "timeout": 5.0, "concurrency": 4, "retries": 2}
    return ChatEndpoint(server.url, "big", cache=cache, **{**defaults, **settings})


def questions(*texts: str) -> list[Messages]:
    return [[{"role": "user", "content": t}] for t in texts]


def echo(_: int, body: dict[str, Any]) -> Reply:
    return Reply(body=completion("re: " + body["messages"][0]["content"]))


# ---------------------------------------------------------------- the good case


def test_answers_come_in_the_order_of_the_questions(serve, tmp_path):
    server = serve(lambda n, body: Reply(body=echo(n, body).body, delay=0.02 * (n % 3)))
    texts = [f"question {i} 手机 \ud800" for i in range(9)]
    answers = endpoint(server, tmp_path, api_key="k").ask(questions(*texts))
    assert [a.text for a in answers] == [f"re: question {i} 手机 ?" for i in range(9)]
    assert {(a.prompt_tokens, a.completion_tokens) for a in answers} == {(7, 3)}
    assert {h["path"] for h in server.headers} == {"/v1/chat/completions"}
    assert {h["authorization"] for h in server.headers} == {"Bearer k"}
    assert {b["model"] for b in server.bodies} == {"big"}


def test_the_number_of_requests_under_way_is_bounded(serve, tmp_path):
    server = serve(lambda n, body: Reply(delay=0.05))
    endpoint(server, tmp_path, concurrency=3).ask(questions(*map(str, range(12))))
    assert server.most_busy == 3


def test_nothing_asked_is_nothing_sent(serve, tmp_path):
    server = serve(echo)
    assert endpoint(server, tmp_path).ask([]) == []
    assert server.bodies == []


# ---------------------------------------------------------------- cache


def test_a_known_answer_needs_no_request(serve, tmp_path):
    server = serve(echo)
    first = endpoint(server, tmp_path).ask(questions("a", "b"))
    again = endpoint(server, tmp_path)
    assert again.ask(questions("a", "b", "c"))[:2] == first
    assert len(server.bodies) == 3
    assert again.counts["cached"] == 2
    assert again.counts["prompt_tokens"] == 7  # only what was paid now


def test_a_known_answer_needs_no_server(serve, tmp_path):
    server = serve(echo)
    first = endpoint(server, tmp_path).ask(questions("a"))
    server.close()
    assert endpoint(server, tmp_path).ask(questions("a")) == first


def test_equal_questions_are_asked_once(serve, tmp_path):
    server = serve(echo)
    answers = endpoint(server, tmp_path).ask(questions("a", "a", "a"))
    assert [a.text for a in answers] == ["re: a"] * 3
    assert len(server.bodies) == 1


def test_another_model_or_sampling_is_another_question(serve, tmp_path):
    server = serve(echo)
    for model, sampling in (("big", {}), ("bigger", {}), ("big", {"temperature": 0.5})):
        ChatEndpoint(server.url, model, cache=tmp_path, sampling=sampling).ask(questions("a"))
    assert len(server.bodies) == 3


@pytest.mark.parametrize("damage", [b"", b"{", b'{"text": "x", "unknown": 1}', b"\xff\xfe", b"[1]"])
def test_a_broken_cache_file_is_asked_again_and_mended(serve, tmp_path, damage):
    server = serve(echo)
    endpoint(server, tmp_path).ask(questions("a"))
    (file,) = tmp_path.rglob("*.json")
    file.write_bytes(damage)
    for _ in range(2):
        assert endpoint(server, tmp_path).ask(questions("a"))[0].text == "re: a"
    assert len(server.bodies) == 2


def test_the_cache_holds_neither_key_nor_question(serve, tmp_path):
    endpoint(serve(lambda n, body: Reply()), tmp_path, api_key="secret-key").ask(questions("private question"))
    written = "".join(p.read_text() for p in tmp_path.rglob("*.json"))
    assert "intent: case" in written
    assert "secret-key" not in written
    assert "private question" not in written


# ---------------------------------------------------------------- failures that pass


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_a_passing_failure_is_tried_again(serve, tmp_path, status):
    server = serve(lambda n, body: Reply(status=status, body=b"busy") if n == 0 else Reply())
    e = endpoint(server, tmp_path)
    assert e.ask(questions("a"))[0].text == "intent: case"
    assert (e.counts["requests"], e.counts["retries"]) == (2, 1)


def test_retry_after_is_waited_for(serve, tmp_path):
    server = serve(lambda n, body: Reply(status=429, headers={"retry-after": "1"}) if n == 0 else Reply())
    endpoint(server, tmp_path).ask(questions("a"))
    assert server.times[1] - server.times[0] >= 1.0


def test_waiting_grows_and_is_never_longer_than_a_minute():
    pauses = [pause("key", attempt, 1.0) for attempt in range(10)]
    assert pauses == sorted(pauses)
    assert pauses[0] >= 1.0
    assert pauses[-1] == pause("key", 0, 1.0, asked=86_400.0) == 60.0


GARBAGE = [
    b"<html>busy</html>",
    b"",
    b"[]",
    b"null",
    b'{"choices": []}',
    b'{"choices": [{"message": {"content": null}}]}',
    b'{"choices": [{"message": {"content": 5}}]}',
    b'{"choices": [{"message": "x"}]}',
    b'{"choices": "x"}',
    b"[" * 100_000,
    b"\xff\xfe\x00",
]


@pytest.mark.parametrize("body", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_tried_again_and_never_cached(serve, tmp_path, body):
    server = serve(lambda n, _: Reply(body=body))
    (answer,) = endpoint(server, tmp_path).ask(questions("a"))
    assert (answer.text, answer.reason) == (None, "garbage")
    assert len(server.bodies) == 3
    assert list(tmp_path.rglob("*.json")) == []


def test_half_a_body_is_a_failure(serve, tmp_path):
    server = serve(lambda n, _: Reply(cut=9))
    (answer,) = endpoint(server, tmp_path).ask(questions("a"))
    assert (answer.text, answer.reason) == (None, "connection")
    assert len(server.bodies) == 3


def test_a_slow_endpoint_times_out(serve, tmp_path):
    server = serve(lambda n, _: Reply(delay=0.6))
    (answer,) = endpoint(server, tmp_path, timeout=0.2, retries=1).ask(questions("a"))
    assert (answer.text, answer.reason) == (None, "timeout")
    assert len(server.bodies) == 2


def test_a_body_that_drips_is_cut_at_the_same_time(serve, tmp_path):
    server = serve(lambda n, _: Reply(drip=0.05))
    start = time.monotonic()
    (answer,) = endpoint(server, tmp_path, timeout=0.3, retries=0).ask(questions("a"))
    assert answer.reason == "timeout"
    assert time.monotonic() - start < 3


# ---------------------------------------------------------------- failures that stay


def test_a_huge_answer_is_not_read_to_its_end(serve, tmp_path):
    server = serve(lambda n, _: Reply(body=completion("x" * 3_000_000)))
    (answer,) = endpoint(server, tmp_path).ask(questions("a"))
    assert (answer.text, answer.reason) == (None, "too large")
    assert len(server.bodies) == 1


def test_a_compressed_bomb_is_measured_unpacked(serve, tmp_path):
    packed = gzip.compress(completion("x" * 20_000_000))
    assert len(packed) < 100_000
    server = serve(lambda n, _: Reply(headers={"content-encoding": "gzip"}, body=packed))
    (answer,) = endpoint(server, tmp_path).ask(questions("a"))
    assert answer.reason == "too large"


def test_a_cut_answer_is_told_apart_and_paid_once(serve, tmp_path):
    server = serve(lambda n, _: Reply(body=completion("intent: ca", finish="length")))
    for _ in range(2):
        (answer,) = endpoint(server, tmp_path).ask(questions("a"))
        assert (answer.text, answer.reason, answer.prompt_tokens) == (None, "cut", 7)
    assert len(server.bodies) == 1


def test_one_refused_question_does_not_stop_the_others(serve, tmp_path):
    bad = "too long for the model"
    server = serve(lambda n, body: Reply(status=400) if body["messages"][0]["content"] == bad else Reply())
    e = endpoint(server, tmp_path)
    assert [a.reason for a in e.ask(questions("a", bad, "b"))] == ["ok", "refused", "ok"]
    assert e.counts["failed: refused"] == 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_an_endpoint_that_will_never_answer_stops_at_once(serve, tmp_path, status):
    server = serve(lambda n, _: Reply(status=status))
    with pytest.raises(TeacherError, match=f"HTTP {status}: check distill.url") as error:
        endpoint(server, tmp_path, api_key="secret-key", concurrency=1).ask(questions(*map(str, range(50))))
    assert "secret-key" not in str(error.value)
    assert len(server.bodies) < 10


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(serve, tmp_path, status):
    other = serve(lambda n, _: Reply())
    server = serve(lambda n, _: Reply(status=status, headers={"location": other.url + "/chat/completions"}))
    with pytest.raises(TeacherError, match="redirect"):
        endpoint(server, tmp_path).ask(questions("a"))
    assert other.bodies == []


def test_a_dead_endpoint_stops_after_some_questions_and_keeps_what_it_has(serve, tmp_path):
    server = serve(lambda n, body: Reply() if n < 3 else Reply(status=503))
    e = endpoint(server, tmp_path, concurrency=1, retries=0)
    with pytest.raises(TeacherError, match="4 questions in a row failed"):
        e.ask(questions(*map(str, range(100))))
    assert len(server.bodies) < 20
    assert len(list(tmp_path.rglob("*.json"))) == 3


def test_an_endpoint_that_fails_now_and_then_goes_on(serve, tmp_path):
    server = serve(lambda n, _: Reply(status=503) if n % 2 else Reply())
    answers = endpoint(server, tmp_path, concurrency=1, retries=0).ask(questions(*map(str, range(20))))
    assert [a.reason for a in answers].count("http 503") == 10


def test_nobody_listens(tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{s.getsockname()[1]}/v1"
    (answer,) = ChatEndpoint(url, "m", cache=tmp_path, retries=1, backoff=0.01).ask(questions("a"))
    assert (answer.text, answer.reason) == (None, "connection")


# ---------------------------------------------------------------- where requests may go


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://host/v1", "host/v1", "", "http://", "javascript:alert(1)", "http://a:b:c/"]
)
def test_only_http_urls(tmp_path, url):
    with pytest.raises(ConfigError, match=r"distill\.url"):
        ChatEndpoint(url, "m", cache=tmp_path)


def test_a_password_in_the_url_is_refused_and_not_shown(tmp_path):
    with pytest.raises(ConfigError) as error:
        ChatEndpoint("https://user:hunter2@host/v1", "m", cache=tmp_path)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("host", ["169.254.169.254", "[fe80::1]", "0.0.0.0", "224.0.0.1", "[::ffff:169.254.169.254]"])
def test_metadata_and_other_odd_addresses_are_always_refused(tmp_path, host):
    e = ChatEndpoint(f"http://{host}/v1", "m", cache=tmp_path, allow_private=True)
    with pytest.raises(TeacherError, match="no endpoint belongs"):
        e.ask(questions("a"))


@pytest.mark.parametrize("host", ["10.0.0.5", "192.168.1.1", "100.64.0.1", "[fd00::1]"])
def test_private_networks_need_a_setting(tmp_path, host):
    with pytest.raises(TeacherError, match="allow_private"):
        ChatEndpoint(f"http://{host}/v1", "m", cache=tmp_path).ask(questions("a"))


def test_a_name_is_looked_up_once_and_must_not_point_inwards(serve, tmp_path, monkeypatch):
    server = serve(echo)
    port = int(server.url.rsplit(":", 1)[1].split("/")[0])
    asked: list[str] = []

    def resolve(host: str, *args: object, **more: object) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda h, *a, **k: resolve(h) if h == "teacher.example" else real(h, *a, **k)
    )
    url = f"http://teacher.example:{port}/v1"
    with pytest.raises(TeacherError, match="private network"):
        ChatEndpoint(url, "m", cache=tmp_path).ask(questions("a"))
    allowed = ChatEndpoint(url, "m", cache=tmp_path, allow_private=True)
    allowed.ask(questions("a"))
    allowed.ask(questions("b"))
    assert asked == ["teacher.example"] * 2  # once per endpoint, not once per request
    assert {h["host"] for h in server.headers} == {f"teacher.example:{port}"}


def test_an_unknown_host_is_named(tmp_path, monkeypatch):
    def fail(*args: object, **more: object) -> None:
        raise socket.gaierror("unknown")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(TeacherError, match=r"'nowhere\.example' is not known"):
        ChatEndpoint("https://nowhere.example/v1", "m", cache=tmp_path).ask(questions("a"))


def test_proxies_of_the_environment_are_not_used(serve, tmp_path, monkeypatch):
    proxy, server = serve(lambda n, _: Reply()), serve(echo)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url)
    assert endpoint(server, tmp_path).ask(questions("a"))[0].text == "re: a"
    assert proxy.bodies == []


def test_the_endpoint_of_the_settings(serve, tmp_path):
    server = serve(echo)
    config = DistillConfig(teacher="openai", url=server.url + "/", model="big", retries=0)
    assert ChatEndpoint.from_config(config, cache=tmp_path).ask(questions("a"))[0].text == "re: a"
    with pytest.raises(ConfigError, match=r"distill\.url is missing"):
        ChatEndpoint.from_config(DistillConfig(), cache=tmp_path)
