"""A finished run that tests read, and copies of it that they may change."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from small_run import make_run

from crsearch.report import write_report


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with its report; not to be changed."""
    folder = make_run(tmp_path_factory.mktemp("runs") / "shop")
    write_report(folder)
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Callable[..., Path]:
    """Makes a copy of the run, under the same name or another, that may be changed."""

    def copy(name: str = "shop") -> Path:
        folder = tmp_path / name
        shutil.copytree(finished, folder)
        shutil.rmtree(folder / "report")
        return folder

    return copy
