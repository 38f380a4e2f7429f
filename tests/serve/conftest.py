"""A served tiny run: 40 items, 60 users, a model of width 16."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tiny_run import run_tiny

from crsearch.serve.config import ServeConfig
from crsearch.serve.service import SearchService


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A finished tiny run; not to be written to."""
    out = tmp_path_factory.mktemp("served") / "run"
    run_tiny(out)
    return out


@pytest.fixture
def run_folder(trained, tmp_path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def serving(run_folder) -> Callable[..., object]:
    """``serving(work, deadline_ms=…)``: start a service, do the work with it, stop it; what the work gave."""

    def run(work: Callable[[SearchService], Awaitable[object]], **settings: object) -> object:
        async def life() -> object:
            service = SearchService(run_folder, ServeConfig.model_validate({"deadline_ms": 10_000, **settings}))
            await service.start()
            try:
                return await work(service)
            finally:
                await service.stop()

        return asyncio.run(life())

    return run
