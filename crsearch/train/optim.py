"""Optimisers and schedules: Muon for matrices and AdamW for the rest, or AdamW alone."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from crsearch.config import OptimConfig


def schedule_factor(config: OptimConfig, step: int, total: int) -> float:
    """Factor on the learning rates at ``step`` (0-based) of ``total``: linear warm-up, then cosine to 0 or constant.

    >>> schedule_factor(OptimConfig(warmup=0.0), 0, 10), round(schedule_factor(OptimConfig(warmup=0.0), 5, 10), 3)
    (1.0, 0.5)
    """
    warm = math.ceil(config.warmup * total)
    if step < warm:
        return (step + 1) / warm
    if config.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


class Optimiser:
    """One or two torch optimisers that step together.

    Args:
        model: its parameters that require a gradient are trained.
        config: learning rates; ``auto`` is Muon + AdamW from scratch and AdamW for a pretrained model.
        pretrained: whether the weights came from elsewhere.
    """

    def __init__(self, model: nn.Module, config: OptimConfig, pretrained: bool) -> None:
        self.config = config
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        muon = config.name == "muon" or (config.name == "auto" and not pretrained)
        tables = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
        tables |= {id(p) for p in _head(model)}
        matrices = [p for p in self.parameters if muon and p.ndim == 2 and id(p) not in tables]
        ids = {id(p) for p in matrices}
        rest = [p for p in self.parameters if id(p) not in ids]
        self._parts: list[torch.optim.Optimizer] = []
        if matrices:
            self._parts.append(torch.optim.Muon(matrices, lr=config.lr_matrix, weight_decay=config.weight_decay))
        if rest:
            decay = [p for p in rest if p.ndim == 2]
            plain = [p for p in rest if p.ndim != 2]
            groups = [{"params": decay, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
            self._parts.append(torch.optim.AdamW([g for g in groups if g["params"]], lr=config.lr, betas=(0.9, 0.95)))
        self._base = [[float(g["lr"]) for g in part.param_groups] for part in self._parts]

    def step(self, step: int, total: int) -> float:
        """Clip the gradients, set the learning rates of ``step``, update, clear. Returns the gradient norm."""
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        factor = schedule_factor(self.config, step, total)
        for part, base in zip(self._parts, self._base, strict=True):
            for group, lr in zip(part.param_groups, base, strict=True):
                group["lr"] = lr * factor
            part.step()
            part.zero_grad(set_to_none=True)
        return float(norm)

    def tensors(self) -> dict[str, Tensor]:
        """The state as named tensors, for a safetensors file."""
        return {
            f"{i}.{index}.{name}": torch.as_tensor(value).contiguous()
            for i, part in enumerate(self._parts)
            for index, values in part.state_dict()["state"].items()
            for name, value in values.items()
        }

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what ``tensors`` gave."""
        for i, part in enumerate(self._parts):
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in tensors.items():
                number, index, name = key.split(".", 2)
                if int(number) == i:
                    state.setdefault(int(index), {})[name] = value
            part.load_state_dict({"state": state, "param_groups": part.state_dict()["param_groups"]})


def _head(model: nn.Module) -> list[nn.Parameter]:
    """Output embedding rows: one per token, so not a matrix in Muon's sense."""
    get = getattr(model, "get_output_embeddings", None)
    head = get() if get is not None else None
    return list(head.parameters()) if isinstance(head, nn.Module) else []
