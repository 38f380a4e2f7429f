"""Settings of a server: the operator's, not the run's. Defaults, then ``--settings FILE``, then ``--set``."""

from pydantic import Field

from crsearch.config import Section


class LimitsConfig(Section):
    """What a request may be at most."""

    body_bytes: int = Field(default=256_000, ge=1_000)
    """Bytes of a request body; more is refused (413) before it is read."""
    query_chars: int = Field(default=256, ge=1)
    """Code points of a query after NFC; the rest is cut off and counted."""
    query_bytes: int = Field(default=1_024, ge=4)
    """UTF-8 bytes of a query after NFC; more is refused (422)."""
    json_depth: int = Field(default=16, ge=2)
    """Nesting of a request body."""
    header_bytes: int = Field(default=16_384, ge=1_024)
    """Bytes of all request headers (431)."""
    url_bytes: int = Field(default=8_192, ge=256)
    """Bytes of path and query string (414)."""
    body_seconds: float = Field(default=10.0, gt=0)
    """Time for the headers, and again for the body, to arrive (408)."""
    rate: float | None = Field(default=None, gt=0)
    """Requests a second of one key, or of one client without keys (429); none = no limit."""
    burst: int = Field(default=20, ge=1)
    """Requests that a key or client may send at once before ``rate`` counts."""


class KeyConfig(Section):
    """API keys: names of environment variables that hold them; none set = a loopback server without keys."""

    search: str = "CRSEARCH_SEARCH_KEY"
    """Key of searches, items, users, suggestions and feedback."""
    admin: str = "CRSEARCH_ADMIN_KEY"
    """Key of catalogue changes, exports and the admin page; allows searches too."""
    metrics: str = "CRSEARCH_METRICS_KEY"
    """Key of ``/metrics``."""


class ServeConfig(Section):
    """How a run is served."""

    host: str = "127.0.0.1"
    """Address; another than loopback is refused without keys."""
    port: int = Field(default=8000, ge=0, le=65_535)
    """0 = any free port, which is printed."""
    workers: int = Field(default=1, ge=1, le=64)
    """Processes, each with its own model; one that dies is started again."""
    hosts: tuple[str, ...] = ()
    """Further names that the Host header may have (against DNS rebinding); loopback names and ``host`` are allowed."""
    origins: tuple[str, ...] = ()
    """Origins that pages of other sites may have (CORS); none = none."""
    deadline_ms: int = Field(default=500, ge=50, le=10_000)
    """Of requests that name none."""
    think_tokens: int | None = Field(default=None, ge=0, le=512)
    """Longest thought; none = ``decode.think_tokens`` of the run."""
    width: int = Field(default=10, ge=1, le=256)
    """Beams; at least ``top_k`` are used."""
    batch: int = Field(default=16, ge=1, le=256)
    """Most requests decoded together."""
    queue: int = Field(default=64, ge=1)
    """Requests that may wait for the model; more are refused (429)."""
    thoughts: int = Field(default=10_000, ge=0)
    """Thoughts kept in the cache."""
    prefix_mib: int = Field(default=64, ge=0)
    """Memory for the keys of contexts that were read, in MiB; 0 = none is kept."""
    drain_seconds: float = Field(default=30.0, gt=0)
    """Longest wait for requests under way at the end."""
    log_queries: bool = False
    """Write queries into the log (escaped, at most 256 characters); off: sizes, rung and timings only."""
    limits: LimitsConfig = LimitsConfig()
    keys: KeyConfig = KeyConfig()
