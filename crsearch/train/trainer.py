"""One loop for every stage that trains: steps, checkpoints, exact resume.

A step is a function of its number alone (data order and sampling are drawn from the seed and the number), so the
state on disk is the weights, the optimiser and the number of steps done, and a resumed stage ends with the same
bits as an uninterrupted one.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn

from crsearch.config import ModelConfig, OptimConfig
from crsearch.errors import TrainingDiverged
from crsearch.runs import Progress, RunDirectory, atomic_directory, digest, file_digest, silent, write_json
from crsearch.train.optim import Optimiser

Losses = Iterator[tuple[Tensor, Mapping[str, float]]]
"""Losses of one step with the numbers to log; each is one optimiser update."""


def bf16_is_native() -> bool:
    """Whether this processor multiplies bfloat16 matrices in hardware."""
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(probe()) if probe is not None else False


def autocast(config: ModelConfig, device: torch.device) -> AbstractContextManager[object]:
    """The precision of training passes: bf16 autocast where asked for or native, else full precision."""
    native = device.type == "cuda" or bf16_is_native()
    use = config.precision == "bf16" or (config.precision == "auto" and native)
    return torch.autocast(device.type, dtype=torch.bfloat16) if use else nullcontext()


@dataclass
class Meter:
    """Means of logged numbers since the last flush."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, numbers: Mapping[str, float]) -> None:
        """Take one value per name."""
        for name, value in numbers.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
            self.counts[name] = self.counts.get(name, 0) + 1

    def flush(self) -> dict[str, float]:
        """Means, then empty."""
        out = {name: self.sums[name] / self.counts[name] for name in sorted(self.sums)}
        self.sums.clear()
        self.counts.clear()
        return out


@dataclass(kw_only=True)
class Trainer:
    """Runs the steps of one stage on one model.

    Attributes:
        run: where checkpoints and numbers go.
        stage: name of the stage.
        key: digest of what the stage depends on; a checkpoint of another key is not resumed.
        log_every: steps per line of ``metrics.jsonl``.
    """

    run: RunDirectory
    stage: str
    key: str
    model: nn.Module
    optim: OptimConfig
    precision: ModelConfig
    pretrained: bool
    progress: Progress = silent
    log_every: int = 10
    save_every: float = 60.0
    """Seconds between checkpoints: what a crash can cost."""

    def train(self, total: int, losses_of: Callable[[int], Losses]) -> dict[str, float]:
        """Take ``total`` steps, from the last checkpoint on if there is one.

        Args:
            losses_of: losses of a step (0-based); must depend on nothing but the number and the model.

        Returns:
            Sums over the stage of the logged numbers that end in ``_sum`` (e.g. ``tokens_sum``).

        Raises:
            TrainingDiverged: a loss is NaN or infinite; the batch number is named.
            StorageError: no room for a checkpoint.
        """
        optimiser = Optimiser(self.model, self.optim, self.pretrained)
        done, sums, meter = self._resume(optimiser)
        if done:
            self.progress(self.stage, done, total, {"resumed_at": float(done)})
        saved = time.monotonic()
        device = next(self.model.parameters()).device
        for step in range(done, total):
            with torch.enable_grad():
                for loss, numbers in self._computed(losses_of, step, device):
                    if not torch.isfinite(loss):
                        raise TrainingDiverged(
                            f"{self.stage}: loss is {loss.item()} at step {step}; lower its learning rates"
                        )
                    loss.backward()
                    norm = optimiser.step(step, total)
                    sums = {
                        n: sums.get(n, 0.0) + numbers.get(n, 0.0)
                        for n in {*sums, *(n for n in numbers if n.endswith("_sum"))}
                    }
                    meter.add({**numbers, "loss": float(loss.detach()), "gradient_norm": norm})
            last = step + 1 == total
            if (step + 1) % self.log_every == 0 or last:
                shown = meter.flush()
                self.run.log(self.stage, step + 1, shown)
                self.progress(self.stage, step + 1, total, shown)
            else:
                self.progress(self.stage, step + 1, total, {})
            if not last and time.monotonic() - saved >= self.save_every:
                self._save(step + 1, optimiser, sums, meter)
                saved = time.monotonic()
        return dict(sorted(sums.items()))

    def _computed(self, losses_of: Callable[[int], Losses], step: int, device: torch.device) -> Losses:
        """The losses of a step, each computed under the training precision."""
        losses = losses_of(step)
        while True:
            with autocast(self.precision, device):
                item = next(losses, None)
            if item is None:
                return
            yield item

    # -- checkpoints --------------------------------------------------------------------------------------------------
    @property
    def folder(self) -> Path:
        """Where the checkpoint of this stage lies, until the stage is on record."""
        return self.run.path / "checkpoints" / self.stage

    def _save(self, step: int, optimiser: Optimiser, sums: Mapping[str, float], meter: Meter) -> None:
        with atomic_directory(self.folder) as tmp:
            save_model(self.model, str(tmp / "model.safetensors"))
            save_file(optimiser.tensors(), str(tmp / "optim.safetensors"))
            state = {"step": step, "key": self.key, "sums": dict(sums), "meter": asdict(meter)}
            write_json(tmp / "state.json", state)
            shas = {name: file_digest(tmp / name) for name in ("model.safetensors", "optim.safetensors", "state.json")}
            write_json(tmp / "manifest.json", shas)

    def _resume(self, optimiser: Optimiser) -> tuple[int, dict[str, float], Meter]:
        """Steps done, sums over the stage, means under way; weights and optimiser are put back."""
        state = self._readable_state()
        step = int(state["step"]) if state else 0
        self.run.rewind("metrics.jsonl", self.stage, step)
        if not state:
            return 0, {}, Meter()
        load_model(self.model, str(self.folder / "model.safetensors"))
        optimiser.load_tensors(load_file(str(self.folder / "optim.safetensors")))
        return step, dict(state["sums"]), Meter(**state["meter"])

    def _readable_state(self) -> dict[str, Any] | None:
        """The state of a complete, undamaged checkpoint of this very stage."""
        manifest = self.folder / "manifest.json"
        if not manifest.exists():
            return None
        shas = json.loads(manifest.read_text())
        if any(not (self.folder / n).exists() or file_digest(self.folder / n) != s for n, s in shas.items()):
            return None
        state: dict[str, Any] = json.loads((self.folder / "state.json").read_text())
        return state if state["key"] == self.key else None


def stream(seed: int, *names: object) -> int:
    """A seed for one purpose, e.g. ``stream(0, "rl0", step)``; streams of different names are independent.

    >>> stream(0, "a") == stream(0, "a"), stream(0, "a") == stream(0, "b")
    (True, False)
    """
    return int(digest(seed, *names)[:15], 16)


def generator(seed: int, *names: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator for one purpose."""
    made = torch.Generator(device=device)
    made.manual_seed(stream(seed, *names))
    return made
