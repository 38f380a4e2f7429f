"""Runs the application: one process, or several that share the port, each with its own model.

Source: details: this project (docs/serving.md).
"""

import contextlib
import gc
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from crsearch.errors import ConfigError, CrsearchError
from crsearch.serve.child import SWITCH_SECONDS, Child
from crsearch.serve.config import ServeConfig
from crsearch.serve.keys import Keys, require_keys_beyond_loopback
from crsearch.serve.protocol import uvicorn_options
from crsearch.serve.seen import log_to_stderr

RUN, CONFIG = "CRSEARCH_SERVE_RUN", "CRSEARCH_SERVE_CONFIG"
"""Environment in which worker processes find what to serve."""


def serve(run: Path, config: ServeConfig, announce: Callable[[str], None] = lambda url: None) -> None:
    """Serve a run until a signal ends it.

    Args:
        run: folder of a finished run.
        config: of the server.
        announce: told the address, before the model is loaded.

    Raises:
        ConfigError: an address beyond loopback without keys; the port is taken or not allowed.
        RunError, ModelError, SidError, DataError: the run cannot be served.
    """
    from crsearch.pipeline.finished import finished

    finished(run)  # before anything is said or bound, and once for all workers
    require_keys_beyond_loopback(config, Keys.from_environment(config.keys, os.environ))
    bound = _bind(config)
    port = bound.getsockname()[1]
    config = config.model_copy(update={"port": port})
    announce(f"http://{config.host}:{port}")
    if config.workers == 1:
        app = make_app(run, config)
        service = app.state.service
        Server(_uvicorn_config(app, config), service.drain).run([bound])
        if service.failure is not None:
            raise service.failure
        return
    from crsearch.serve.workers import Workers

    os.environ[RUN], os.environ[CONFIG] = str(run.resolve()), config.model_dump_json()
    many = _uvicorn_config("crsearch.serve.server:app_of_environment", config, factory=True, workers=config.workers)
    with tempfile.TemporaryDirectory() as folder:
        Workers(many, [bound], Path(folder)).serve()


def make_app(run: Path, config: ServeConfig) -> Any:
    """The application of a run; its model decodes in a process of its own."""
    child = Child(run, config)  # first, since both processes have much to import
    gc.disable()  # what is loaded stays: to look through it again and again would take a quarter of the start
    from crsearch.serve.apart import Apart
    from crsearch.serve.app import create_app
    from crsearch.serve.service import SearchService

    log_to_stderr()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        return create_app(SearchService(run, config, decoder=Apart(run, config, child)), config)
    finally:
        gc.enable()


def app_of_environment() -> Any:
    """The application in a worker process, which tells the supervisor why it cannot start."""
    from crsearch.serve.workers import tell

    try:
        app = make_app(Path(os.environ[RUN]), ServeConfig.model_validate_json(os.environ[CONFIG]))
    except CrsearchError as e:
        tell(e)
        raise SystemExit(1) from e
    app.state.service.announce = tell
    return app


def _bind(config: ServeConfig) -> socket.socket:
    """The socket, bound before anything is loaded, so that a taken port is told at once."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    # the protocol is named: only then asyncio turns Nagle's algorithm off, which costs 40 ms an answer
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((config.host, config.port))
    except OSError as e:
        bound.close()
        raise ConfigError(
            f"cannot listen on {config.host} port {config.port}: {e.strerror}. Choose another: --port N (0 = any)"
        ) from e
    bound.set_inheritable(True)
    return bound


def _uvicorn_config(app: Any, config: ServeConfig, **more: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=config.host,
        log_level="error",
        timeout_graceful_shutdown=round(config.drain_seconds),
        **uvicorn_options(config),
        **more,
    )


class Server(uvicorn.Server):
    """uvicorn, but a signal that was asked for ends with exit code 0; a second one ends at once."""

    def __init__(self, config: uvicorn.Config, on_exit: Callable[[], None]) -> None:
        super().__init__(config)
        self.on_exit = on_exit

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM while the server runs."""
        before = {s: signal.signal(s, self.handle_exit) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, the second ends."""
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True
        self.on_exit()
