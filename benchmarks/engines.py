"""Drivers of serving engines for ``benchmarks/gpu.py``: the beam search of vLLM and of SGLang, as far as each goes.

Neither holds its beams to a catalogue: the share of beams that are items is printed beside their time. Both read a
folder, with a tokenizer of made-up words, since they ask for the end token and turn beams into text.

Source: vLLM's ``LLM.beam_search`` (docs.vllm.ai, entrypoints.generate.beam_search.offline, 0.22); SGLang's sampling
parameter ``beam_width`` and its answer ``meta_info.beam_results`` (sgl-project/sglang, pull request 31626).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

Beams = list[list[list[int]]]
"""Of each prompt, best first, the tokens of each beam."""


class Engine(Protocol):
    """A model in the hands of another engine."""

    def search(self, prompts: Sequence[Sequence[int]], width: int) -> Beams:
        """As many tokens after each prompt as an SID has."""
        ...

    def close(self) -> None:
        """Give back the memory of the device."""
        ...


def save_folder(model: Any, folder: Path) -> Path:
    """Weights, settings and a tokenizer of the words ``t0``, ``t1``, ... as a Hugging Face folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({f"t{n}": n for n in range(model.config.vocab_size)}, unk_token="t0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    model.save_pretrained(folder)
    words.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "t0", "eos_token": "t1", "pad_token": "t0"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


class VLLM:
    """``LLM.beam_search``: each step a batch of requests of one token, with the prefix cache."""

    def __init__(self, folder: Path, width: int, depth: int, longest: int, dtype: str) -> None:
        from vllm import LLM

        self.depth = depth
        self.llm = LLM(
            model=str(folder), dtype=dtype, max_model_len=longest + depth, max_logprobs=2 * width,
            enable_prefix_caching=True, gpu_memory_utilization=0.4, seed=0,
        )  # fmt: skip

    def search(self, prompts: Sequence[Sequence[int]], width: int) -> Beams:
        """As many tokens after each prompt as an SID has."""
        from vllm.sampling_params import BeamSearchParams

        params = BeamSearchParams(beam_width=width, max_tokens=self.depth, ignore_eos=True)
        found = self.llm.beam_search([{"prompt_token_ids": list(prompt)} for prompt in prompts], params)
        return [[list(beam.tokens)[-self.depth :] for beam in output.sequences] for output in found]

    def close(self) -> None:
        """Give back the memory of the device."""
        del self.llm


class SGLang:
    """``Engine.generate`` with ``beam_width``; beam search asks for an engine that does not overlap its steps."""

    def __init__(self, folder: Path, width: int, depth: int, longest: int, dtype: str) -> None:
        import sglang

        self.depth = depth
        self.engine = sglang.Engine(
            model_path=str(folder), dtype=dtype, context_length=longest + depth + 1, disable_overlap_schedule=True,
            mem_fraction_static=0.4, random_seed=0,
        )  # fmt: skip

    def search(self, prompts: Sequence[Sequence[int]], width: int) -> Beams:
        """As many tokens after each prompt as an SID has."""
        params = {"beam_width": width, "max_new_tokens": self.depth, "ignore_eos": True}
        found = self.engine.generate(input_ids=[list(prompt) for prompt in prompts], sampling_params=params)
        return [[self._tokens(beam) for beam in answer["meta_info"]["beam_results"]] for answer in found]

    def _tokens(self, beam: Any) -> list[int]:
        if "output_ids" in beam:
            return list(beam["output_ids"])[: self.depth]
        return [int(word[1:]) for word in beam["text"].split()][: self.depth]

    def close(self) -> None:
        """Give back the memory of the device."""
        self.engine.shutdown()


ENGINES: dict[str, type[VLLM] | type[SGLang]] = {"vllm": VLLM, "sglang": SGLang}
"""Package -> its driver."""
