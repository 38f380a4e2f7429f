"""``benchmarks/gpu.py`` at its tiny size on the CPU; on a GPU by hand."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.fixture
def gpu():
    spec = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tiny_size_compares_times_and_writes(gpu, tmp_path, capsys):
    out = tmp_path / "gpu.json"
    assert gpu.main(["--tiny", "--runs", "1", "--out", str(out)]) == 0
    document = json.loads(out.read_text())
    ratios = [figure for figure in document["figures"] if "ratio" in figure]
    assert len(ratios) == 4
    assert all("100 % of items equal" in figure["how"] for figure in ratios)
    assert [f["what"] for f in document["figures"][4:]] == ["against vllm", "against sglang"]
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_nothing_is_timed_where_lists_differ(gpu, monkeypatch, capsys):
    search = gpu.beam_search

    def broken(*args, **kwargs):
        rows, scores = search(*args, **kwargs)
        return rows.flip(-1), scores

    monkeypatch.setattr(gpu, "beam_search", broken)
    assert gpu.main(["--tiny"]) == 1
    said = capsys.readouterr()
    assert "different lists" in said.err
    assert said.out == ""


def test_without_a_gpu_it_says_so(gpu, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    assert "--tiny" in capsys.readouterr().err


def test_the_usual_way_gets_a_smaller_batch_where_memory_ends(gpu, monkeypatch):
    class Small:
        def search(self, prompts, width):
            if len(prompts) > 5:
                raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    assert gpu.fitting_batch(Small(), 8, 2, 32) == 4
