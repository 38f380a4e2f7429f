"""The command line inside the test process."""

from collections.abc import Callable

import pytest
from typer.testing import CliRunner, Result

from crsearch.cli.main import app


@pytest.fixture
def crsearch() -> Callable[..., Result]:
    """Runs a command line; the result has ``exit_code``, ``stdout`` and ``stderr``."""

    def invoke(*arguments: object) -> Result:
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke
