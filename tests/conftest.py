"""Fixtures that several packages use: a small shop and tokenizers that know its semantic IDs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from shop import book, contexts, shop

from crsearch.config import ContextConfig
from crsearch.records.store import Catalogue
from crsearch.sids.book import SidBook

settings.register_profile("timeless", settings(), deadline=None)  # a busy machine fails no test
settings.load_profile("timeless")


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    return shop()


@pytest.fixture(scope="session")
def sids(catalogue: Catalogue) -> SidBook:
    return book(catalogue)


@pytest.fixture(scope="session")
def tokenizer(catalogue: Catalogue, sids: SidBook) -> Any:
    """Our domain tokenizer, trained on this shop."""
    from crsearch.context import Serialiser
    from crsearch.models import train_tokenizer

    texts = Serialiser(catalogue, sids, ContextConfig(time="month")).texts(contexts(catalogue, 200, seed=1))
    return train_tokenizer(texts, 1500, sids.vocabulary())


@pytest.fixture(scope="session")
def qwen(sids: SidBook) -> Any:
    """A chat tokenizer as Qwen3's, extended by the semantic IDs."""
    from hf_like import qwen_tokenizer

    return with_sids(qwen_tokenizer(), sids)


@pytest.fixture(scope="session")
def llama(sids: SidBook) -> Any:
    """A tokenizer as Llama's, without chat template, extended by control tokens and semantic IDs."""
    from hf_like import llama_tokenizer

    from crsearch.context.prompts import CONTROL

    found = with_sids(llama_tokenizer(), sids)
    found.add_tokens(list(CONTROL), special_tokens=True)
    return found


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run directory; copy it before changing anything in it."""
    from tiny_run import run_tiny

    out = tmp_path_factory.mktemp("runs") / "tiny"
    run_tiny(out)
    return out


@pytest.fixture
def crsearch() -> Callable[..., Any]:
    """Runs a command line; the result has ``exit_code``, ``stdout`` and ``stderr``."""

    from typer.testing import CliRunner

    from crsearch.cli.main import app

    def invoke(*arguments: object) -> Any:
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


def with_sids(tokenizer: Any, sids: SidBook) -> Any:
    tokenizer.add_tokens(sids.vocabulary(), special_tokens=True)
    return tokenizer
