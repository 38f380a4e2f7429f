"""Ask an OpenAI-compatible endpoint many questions, once each: cached, bounded, retried, and only where it may go.

Safe against a bad URL (http and https only, no redirects, the address is resolved once and kept, private networks
only on request) and against a bad answer (size, time and form are checked). An answer is on disk as soon as it is
there, so a stopped run asks only for what is missing.
"""

import ipaddress
import json
import logging
import re
import socket
import threading
import time
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from crsearch.config import DistillConfig
from crsearch.errors import ConfigError, TeacherError
from crsearch.runs import digest, write_json

log = logging.getLogger(__name__)

Messages = list[dict[str, str]]
"""A conversation: ``[{"role": "system", "content": ...}, {"role": "user", "content": ...}]``."""

_RETRY = {408, 425, 429, 500, 502, 503, 504, 529}
_HOPELESS = {401, 402, 403, 404, 405}
_LONGEST_WAIT = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the endpoint said to one conversation."""

    text: str | None
    """None where there is no usable answer."""
    reason: str = "ok"
    """``ok``, ``cut`` (token limit), ``refused`` (4xx), ``too large``, or the last failure after all retries:
    ``http 503``, ``timeout``, ``connection``, ``garbage`` (not a chat completion)."""
    prompt_tokens: int = 0
    """Tokens billed, as the endpoint counts them."""
    completion_tokens: int = 0


class _Failure(Exception):
    """One attempt failed; ``wait`` seconds are asked for by the endpoint."""

    def __init__(self, reason: str, *, is_final: bool = False, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.reason, self.is_final, self.wait = reason, is_final, wait


class ChatEndpoint:
    """An OpenAI-compatible ``/chat/completions`` endpoint (vLLM, SGLang, a cloud) with a cache of its answers.

    Attributes:
        counts: since the start: ``requests`` sent, ``retries`` among them, ``cached`` answers, ``prompt_tokens`` and
            ``completion_tokens`` paid now, and ``failed: <reason>``.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        cache: Path,
        api_key: str | None = None,
        concurrency: int = 8,
        retries: int = 4,
        timeout: float = 60.0,
        backoff: float = 1.0,
        max_bytes: int = 1_000_000,
        allow_private: bool = False,
        sampling: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Args:
            url: base URL, e.g. ``http://127.0.0.1:8000/v1``.
            model: name to ask for.
            cache: folder of answers, one JSON file per request hash. Answers speak of users: keep it in the run.
            api_key: sent as a bearer token; never written anywhere.
            concurrency: requests under way at once, at most.
            retries: attempts after the first, on 408, 429, 5xx, timeouts, broken connections and garbage.
            timeout: seconds per attempt, until the last byte.
            backoff: seconds before the first retry, doubled each time; a longer ``Retry-After`` wins (up to 60 s).
            max_bytes: largest response read.
            allow_private: the address may lie in a private network (loopback by its own name always may).
            sampling: further fields of the request body.

        Raises:
            ConfigError: not an http(s) URL, or a URL with a password in it.
        """
        import httpx2

        try:
            parsed = httpx2.URL(url)
        except httpx2.InvalidURL as e:
            raise ConfigError(f"distill.url = {url!r}: not a URL: {e}") from e
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ConfigError(f"distill.url = {url!r}: give an http or https URL, e.g. http://127.0.0.1:8000/v1")
        if parsed.userinfo:
            raise ConfigError("distill.url holds a user name or password: pass the key as api_key, not in the URL")
        self.url = url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        self.model = model
        self.counts: Counter[str] = Counter()
        self._cache = cache
        self._key = api_key
        self._concurrency = concurrency
        self._retries = retries
        self._timeout = timeout
        self._backoff = backoff
        self._max_bytes = max_bytes
        self._allow_private = allow_private
        self._sampling = dict(sampling or {"temperature": 0.0, "max_tokens": 512})
        self._address: str | None = None
        self._lock = threading.Lock()

    @classmethod
    def from_config(cls, config: DistillConfig, *, cache: Path, api_key: str | None = None) -> "ChatEndpoint":
        """The endpoint that ``distill`` names.

        Raises:
            ConfigError: no ``distill.url``, or not an http(s) URL.
        """
        if not config.url:
            raise ConfigError('distill.url is missing: name the endpoint, e.g. "http://127.0.0.1:8000/v1"')
        return cls(
            config.url,
            config.model,
            cache=cache,
            api_key=api_key,
            concurrency=config.concurrency,
            retries=config.retries,
            timeout=config.timeout,
            allow_private=config.allow_private,
        )

    def ask(self, conversations: Sequence[Messages]) -> list[Answer]:
        """One answer per conversation, in order; equal conversations are asked once.

        A question that fails after all retries has ``text`` None and a reason; the others go on.

        Raises:
            TeacherError: the endpoint refuses us altogether (401, 403, 404, a redirect), its address is not allowed,
                or one question after the other fails. Answers so far stay in the cache.
            StorageError: the cache cannot be written.
        """
        bodies = [{"model": self.model, "messages": m, **self._sampling} for m in conversations]
        keys = [digest(self.url, body) for body in bodies]
        answers = {key: answer for key in set(keys) if (answer := self._read(key)) is not None}
        self.counts["cached"] += sum(key in answers for key in keys)
        missing = {key: body for key, body in zip(keys, bodies, strict=True) if key not in answers}
        if missing:
            answers.update(self._ask_all(missing))
        return [answers[key] for key in keys]

    # ------------------------------------------------------------ many requests

    def _ask_all(self, bodies: Mapping[str, Mapping[str, Any]]) -> dict[str, Answer]:
        import httpx2

        address = self._resolve()
        stop = threading.Event()
        failing = _Streak(limit=2 * self._concurrency + 2)
        limits = httpx2.Limits(max_connections=self._concurrency)
        with (
            # trust_env off: no proxy or netrc of the environment decides where requests and the key go
            httpx2.Client(timeout=self._timeout, trust_env=False, follow_redirects=False, limits=limits) as client,
            ThreadPoolExecutor(self._concurrency) as pool,
        ):
            jobs = {
                key: pool.submit(self._ask_one, client, address, key, b, stop, failing) for key, b in bodies.items()
            }
            try:
                wait(jobs.values(), return_when=FIRST_EXCEPTION)
                return {key: job.result() for key, job in _finished_first(jobs).items()}
            finally:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)

    def _ask_one(
        self,
        client: Any,
        address: str,
        key: str,
        body: Mapping[str, Any],
        stop: threading.Event,
        failing: "_Streak",
    ) -> Answer:
        """One question with its retries."""
        for attempt in range(self._retries + 1):
            with self._lock:
                self.counts["requests"] += 1
                self.counts["retries"] += attempt > 0
            try:
                answer = self._request(client, address, body)
            except _Failure as e:
                failure = e
                if e.is_final or attempt == self._retries:
                    break
                if stop.wait(pause(key, attempt, self._backoff, e.wait)):
                    break
            else:
                failing.reset()
                with self._lock:
                    self.counts["prompt_tokens"] += answer.prompt_tokens
                    self.counts["completion_tokens"] += answer.completion_tokens
                write_json(self._path(key), asdict(answer))
                return answer
        with self._lock:
            self.counts[f"failed: {failure.reason}"] += 1
        log.warning("teacher %s: no answer to request %s: %s", self.model, key[:12], failure.reason)
        if failing.add() and not stop.is_set():
            raise TeacherError(
                f"{self.url}: {failing.length} questions in a row failed (last: {failure.reason}). Answers so far are "
                f'kept in {self._cache}: mend the endpoint and run again, or set distill.teacher = "template"'
            )
        return Answer(text=None, reason=failure.reason)

    # ------------------------------------------------------------ one request

    def _request(self, client: Any, address: str, body: Mapping[str, Any]) -> Answer:
        """One attempt.

        Raises:
            _Failure: no usable answer. TeacherError: no later attempt can succeed either.
        """
        import httpx2

        url = httpx2.URL(self.url)
        headers = {"host": url.netloc.decode("ascii"), "content-type": "application/json"}
        if self._key:
            headers["authorization"] = f"Bearer {self._key}"
        deadline = time.monotonic() + self._timeout
        try:
            with client.stream(
                "POST",
                url.copy_with(host=address),
                content=json.dumps(body),  # ASCII: half a surrogate pair in the data stays legal
                headers=headers,
                extensions={"sni_hostname": url.host},
            ) as response:
                self._check_status(response.status_code, response.headers)
                raw = bytearray()
                for chunk in response.iter_bytes():
                    raw += chunk
                    if len(raw) > self._max_bytes:
                        raise _Failure("too large", is_final=True)
                    if time.monotonic() > deadline:
                        raise _Failure("timeout")
        except httpx2.TimeoutException as e:
            raise _Failure("timeout") from e
        except httpx2.DecodingError as e:
            raise _Failure("garbage") from e
        except httpx2.TransportError as e:
            raise _Failure("connection") from e
        return _parse(bytes(raw))

    def _check_status(self, status: int, headers: Mapping[str, str]) -> None:
        if status == 200:
            return
        if 300 <= status < 400:
            raise TeacherError(
                f"{self.url}: answers with a redirect ({status}), which is not followed: set the final URL"
            )
        if status in _HOPELESS:
            raise TeacherError(
                f"{self.url}: HTTP {status}: check distill.url, distill.model ({self.model!r}) and the key"
            )
        if status in _RETRY or status >= 500:
            raise _Failure(f"http {status}", wait=_seconds(headers.get("retry-after", "")))
        raise _Failure("refused", is_final=True)

    # ------------------------------------------------------------ where requests may go

    def _resolve(self) -> str:
        """The address of the host: looked up once, so that a name that changes its mind leads nowhere else.

        Raises:
            TeacherError: unknown host, or an address that is not allowed.
        """
        if self._address is None:
            import httpx2

            url = httpx2.URL(self.url)
            host, port = url.host, url.port or (443 if url.scheme == "https" else 80)
            try:
                found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError) as e:
                raise TeacherError(f"{self.url}: host {host!r} is not known: {e}") from e
            addresses = [str(entry[4][0]) for entry in found]
            for address in addresses:
                _check_address(self.url, host, address, self._allow_private)
            self._address = addresses[0]
        return self._address

    # ------------------------------------------------------------ cache

    def _path(self, key: str) -> Path:
        return self._cache / key[:2] / f"{key}.json"

    def _read(self, key: str) -> Answer | None:
        path = self._path(key)
        try:
            value = Answer(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as e:
            log.warning("teacher cache: %s is broken (%s); asking again", path, e)
            return None
        return value


def pause(key: str, attempt: int, first: float, asked: float = 0.0) -> float:
    """Seconds to wait before trying again: doubled each time, at most a minute.

    Args:
        key: of the question; spreads the waits by up to a quarter, so that questions do not come back all at once.
        attempt: attempts so far, from 0. first: seconds before the first retry.
        asked: seconds that the endpoint asked for.
    """
    spread = 1 + zlib.crc32(f"{key}{attempt}".encode()) % 1000 / 4000
    return min(_LONGEST_WAIT, max(asked, first * 2**attempt * spread))


class _Streak:
    """Failures in a row, over all threads."""

    def __init__(self, limit: int) -> None:
        self.length, self._limit, self._lock = 0, limit, threading.Lock()

    def add(self) -> bool:
        """Count one; True when the limit is reached."""
        with self._lock:
            self.length += 1
            return self.length >= self._limit

    def reset(self) -> None:
        with self._lock:
            self.length = 0


def _finished_first(jobs: dict[str, Any]) -> dict[str, Any]:
    """A job that raised comes first, so that its error is seen before any that was cancelled."""
    return dict(sorted(jobs.items(), key=lambda entry: not entry[1].done() or entry[1].exception() is None))


def _check_address(url: str, host: str, address: str, allow_private: bool) -> None:
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    if ip.is_link_local or ip.is_multicast or ip.is_unspecified:
        raise TeacherError(f"{url}: {host} is {ip}, where no endpoint belongs (metadata services live there)")
    is_named_loopback = ip.is_loopback and (host == "localhost" or host == address)
    if not ip.is_global and not is_named_loopback and not allow_private:
        raise TeacherError(
            f"{url}: {host} is {ip}, in a private network: set distill.allow_private = true if it is meant"
        )


def _seconds(retry_after: str) -> float:
    """Seconds of a ``Retry-After`` header; 0 where it is missing or a date."""
    return float(retry_after) if re.fullmatch(r"\d{1,6}", retry_after.strip()) else 0.0


def _parse(raw: bytes) -> Answer:
    """The first choice of a chat completion.

    Raises:
        _Failure: not a chat completion.
    """
    try:
        value = json.loads(raw)
        choice = value["choices"][0]
        text = choice["message"]["content"]
        usage = value.get("usage") or {}
        tokens = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as e:
        raise _Failure("garbage") from e
    if not isinstance(text, str):
        raise _Failure("garbage")
    text = text.encode("utf-8", "replace").decode()  # a lone surrogate cannot be written
    if choice.get("finish_reason") == "length":
        return Answer(text=None, reason="cut", prompt_tokens=tokens[0], completion_tokens=tokens[1])
    return Answer(text=text, prompt_tokens=tokens[0], completion_tokens=tokens[1])
