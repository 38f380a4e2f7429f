"""A Hugging Face folder in the shape of Qwen3-0.6B goes through every stage by one ordinary settings file."""

import json
from typing import ClassVar

import pytest
import torch
from hf_like import qwen_model, qwen_tokenizer
from safetensors import safe_open
from tiny_run import Events
from transformers import AutoModelForCausalLM, AutoTokenizer

from crsearch.config import load_settings
from crsearch.pipeline.run import run

SETTINGS = """
threads = 1
checkpoint_seconds = 0
preset = "demo"
model.path = "{folder}"
simulate = {{ users = 40, items = 8, departments = 1, brands = 2 }}
split = {{ test = 0.2, valid = 0.2 }}
encoder.dim = 8
sids.codes = 4
align = {{ batch = 2, max_steps = 2 }}
distill = {{ batch = 2, max_steps = 2, users = 6 }}
rl = {{ steps = 2, prompts = 2, group_size = 2, beam = 4, kl = 0.04, updates = 2 }}
sft = {{ samples = 64, batch = 2, epochs = 4, max_steps = 2 }}
loop.iterations = 1
decode = {{ width = 10, think_tokens = 48 }}
evaluate.bootstrap = 100
"""


@pytest.fixture(scope="module")
def qwen_folder(tmp_path_factory):
    """Qwen3's class, tied embeddings, more rows than tokens, byte-level BPE, a chat template, bfloat16."""
    folder = tmp_path_factory.mktemp("models") / "qwen"
    tokenizer = qwen_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = qwen_model(len(tokenizer) + 5).to(torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_every_stage_runs_on_a_qwen3_folder(qwen_folder, tmp_path, capfd):
    file, out = tmp_path / "my.toml", tmp_path / "run"
    file.write_text(SETTINGS.format(folder=qwen_folder))
    before = AutoTokenizer.from_pretrained(qwen_folder)
    assert before.convert_ids_to_tokens(before.encode("<think>")) == ["<think>"]
    assert "<think>" not in before.all_special_tokens

    class Look(Events):
        """Also looks at the optimiser's state on disk."""

        kept: ClassVar[set[str]] = set()

        def __call__(self, stage, done, total, numbers):
            super().__call__(stage, done, total, numbers)
            state = out / "checkpoints" / stage / "optim.safetensors"
            if state.exists():
                with safe_open(state, "pt") as tensors:
                    self.kept.update(name.split(".")[-1] for name in tensors.keys())  # noqa: SIM118

    events = Look()
    found = run(load_settings(file), out, progress=events)
    steps = {name: done for name, done, total, _ in events.all if total == 2}
    assert steps.keys() == {"align", "sft0", "rl0", "sft1", "direct0", "direct"}
    assert set(steps.values()) == {2}
    assert events.kept == {"step", "exp_avg", "exp_avg_sq"}, "AdamW, and no Muon, for a pretrained model"
    assert found["invalid_items"] == 0
    assert found == json.loads((out / "results.json").read_text())
    assert "Loading weights" not in capfd.readouterr().err

    model = AutoModelForCausalLM.from_pretrained(out / "models/sft1")
    tokenizer = AutoTokenizer.from_pretrained(out / "models/sft1")
    assert type(model).__name__ == "Qwen3ForCausalLM"
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert tokenizer.chat_template == before.chat_template
    assert len(tokenizer.encode("<a_1><b_0>")) == 2
