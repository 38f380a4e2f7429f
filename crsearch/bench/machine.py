"""What this machine can do at most on one thread: the limit that measured figures are held against."""

import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from crsearch.bench.timing import cpu_seconds, one_thread


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A processor and its measured limits, of one thread."""

    cpu: str
    cores: int
    load: float
    """Processes that wanted a core in the last minute, before the bench began."""
    float32_gflops: float
    """Of a large matrix product."""
    bfloat16_gflops: float
    memory_gbytes: float
    """Read and written by a copy, a second."""
    torch: str
    date: str

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {k: round(v, 1) if isinstance(v, float) else v for k, v in asdict(self).items()}


def machine(size: int = 1024, megabytes: int = 128, runs: int = 5) -> Machine:
    """Measure this machine: the best of a few runs, since a limit is asked for.

    Args:
        size: of the square matrices.
        megabytes: copied; more than the caches hold.
        runs: of each.
    """
    import torch

    load = os.getloadavg()[0]
    with one_thread(), torch.inference_mode():
        rates = []
        for dtype in (torch.float32, torch.bfloat16):
            a = torch.ones(size, size, dtype=dtype)
            seconds = min(cpu_seconds(lambda a=a: a @ a)[0] for _ in range(1 + runs))  # type: ignore[misc]
            rates.append(2 * size**3 / seconds / 1e9)
        source = torch.ones(megabytes, 2**18)
        target = torch.empty_like(source)
        copied = min(cpu_seconds(lambda: target.copy_(source))[0] for _ in range(1 + runs))
    return Machine(
        cpu=cpu_name(),
        cores=os.cpu_count() or 1,
        load=load,
        float32_gflops=rates[0],
        bfloat16_gflops=rates[1],
        memory_gbytes=2 * source.nbytes / copied / 1e9,
        torch=torch.__version__,
        date=time.strftime("%Y-%m-%d"),
    )


def cpu_name() -> str:
    """Of the processor, as its maker calls it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def forward_flops(config: Any, tokens: int, pairs: int) -> float:
    """Floating point operations of the layers of a Qwen3 or Llama for some tokens, without the output matrix.

        2 x weights of the matrices x tokens  +  4 x heads x width of a head x pairs,   per layer

    Args:
        config: of the model.
        tokens: read.
        pairs: of tokens of which one attends to the other.
    """
    width, head = config.hidden_size, config.head_dim
    heads, shared = config.num_attention_heads, config.num_key_value_heads
    weights = width * head * (2 * heads + 2 * shared) + 3 * width * config.intermediate_size
    return float(config.num_hidden_layers * (2 * weights * tokens + 4 * heads * head * pairs))


def reading_flops(config: Any, tokens: int) -> float:
    """Operations of reading a prompt for its keys and values: the last layer ends with its projections.

    Args:
        config: of the model.
        tokens: of the prompt, each attending to those before it and to itself.
    """
    pairs = tokens * (tokens + 1) // 2
    projections = config.hidden_size * config.head_dim * (config.num_attention_heads + 2 * config.num_key_value_heads)
    share = (config.num_hidden_layers - 1) / config.num_hidden_layers
    return share * forward_flops(config, tokens, pairs) + 2 * projections * tokens
