"""``benchmarks/gpu.py`` at its tiny size on the CPU; on a GPU by hand."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.fixture
def gpu(monkeypatch):
    spec = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.syspath_prepend(SCRIPT.parent)
    monkeypatch.setattr(module, "installed", lambda name: name in sys.modules)
    return module


def test_the_tiny_size_compares_times_and_writes(gpu, tmp_path, capsys):
    out = tmp_path / "gpu.json"
    assert gpu.main(["--tiny", "--runs", "1", "--out", str(out)]) == 0
    document = json.loads(out.read_text())
    ratios = [figure for figure in document["figures"] if "ratio" in figure]
    assert len(ratios) == 4
    assert all("100 % of items equal" in figure["how"] for figure in ratios)
    assert [f["what"] for f in document["figures"][4:]] == ["against vllm", "against sglang"]
    assert len(capsys.readouterr().out.splitlines()) == 7


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


def beams_of(folder: str, prompts: list[list[int]], width: int, tokens: int) -> torch.Tensor:
    """What an engine without a catalogue answers, by Hugging Face's unconstrained beam search."""
    from transformers import AutoModelForCausalLM

    ids = torch.tensor(prompts)
    found = AutoModelForCausalLM.from_pretrained(folder).generate(
        ids, attention_mask=torch.ones_like(ids), num_beams=width, num_return_sequences=width, max_new_tokens=tokens,
        do_sample=False, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return found.view(len(prompts), width, -1)


class FakeLLM:
    """The part of vLLM's ``LLM`` that is used, on the saved folder."""

    def __init__(self, model: str, max_logprobs: int, **_: object) -> None:
        self.folder, self.max_logprobs = model, max_logprobs

    def beam_search(self, prompts, params):
        assert params.ignore_eos
        assert self.max_logprobs >= 2 * params.beam_width
        ids = [p["prompt_token_ids"] for p in prompts]
        beams = beams_of(self.folder, ids, params.beam_width, params.max_tokens)
        return [SimpleNamespace(sequences=[SimpleNamespace(tokens=b) for b in p]) for p in beams.tolist()]


class FakeEngine:
    """The part of SGLang's ``Engine`` that is used; answers in text, as with a tokenizer."""

    def __init__(self, model_path: str, disable_overlap_schedule: bool, **_: object) -> None:
        assert disable_overlap_schedule
        self.folder = model_path

    def generate(self, input_ids, sampling_params):
        from transformers import AutoTokenizer

        words = AutoTokenizer.from_pretrained(self.folder)
        beams = beams_of(self.folder, input_ids, sampling_params["beam_width"], sampling_params["max_new_tokens"])
        told = [[{"text": words.decode(b)} for b in p[:, len(input_ids[0]) :]] for p in beams]
        return [{"meta_info": {"beam_results": answer}} for answer in told]

    def shutdown(self) -> None:
        pass


def test_engines_that_are_installed_are_timed_beside_ours(gpu, monkeypatch, tmp_path):
    vllm, params, sglang = ModuleType("vllm"), ModuleType("vllm.sampling_params"), ModuleType("sglang")
    vllm.LLM, params.BeamSearchParams, sglang.Engine = FakeLLM, SimpleNamespace, FakeEngine
    for module in (vllm, params, sglang):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    tokens = gpu.toy_catalogue(300, 8, gpu.np.random.default_rng(0))
    model = gpu.toy_qwen3(gpu.FIRST_SID + 32)
    sizes = gpu.GpuSizes(runs=1, prompts=(16,), widths=(3,), batches=(1, 2))
    found = gpu.others(model, gpu.Trie.from_tokens(tokens), sizes)
    assert [figure.usual_way for figure in found] == ["vllm", "vllm", "sglang", "sglang"]
    assert all(figure.usual > 0 and "0 % of its beams are items" in figure.how for figure in found)


def test_an_engine_that_fails_is_a_line_of_the_table(gpu, monkeypatch):
    vllm = ModuleType("vllm")
    vllm.LLM = lambda **_: (_ for _ in ()).throw(RuntimeError("no CUDA device"))
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    trie = gpu.Trie.from_tokens(gpu.toy_catalogue(300, 8, gpu.np.random.default_rng(0)))
    found = gpu.others(gpu.toy_qwen3(gpu.FIRST_SID + 32), trie, gpu.TINY)
    assert [figure.how for figure in found] == [
        "does not start: RuntimeError('no CUDA device')", "not installed (pip install sglang)",
    ]  # fmt: skip
