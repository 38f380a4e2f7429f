"""The arrays of a trie as tensors of a device."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from crsearch.decode.trie import Levels, TrieMask


@dataclass(frozen=True, eq=False)
class DeviceLevels:
    """The arrays of `Levels` as tensors of one device, indexed by level."""

    token: tuple[Tensor, ...]
    first: tuple[Tensor, ...]
    row: Tensor
    alive: tuple[Tensor, ...] | None
    """Per level: does a live item lie below the node? None = all do."""


def levels_on(state: Levels, device: torch.device) -> DeviceLevels:
    """The arrays on a device: without a copy on the CPU, copied once elsewhere."""
    if device not in state.copies:

        def put(a: np.ndarray) -> Tensor:
            return torch.from_numpy(a).to(device)

        alive = tuple(put(m) for m in state.folded if m is not None) or None
        state.copies[device] = DeviceLevels(
            tuple(map(put, state.token)), tuple(map(put, state.first)), put(state.row), alive
        )
    found: DeviceLevels = state.copies[device]
    return found


def mask_on(mask: TrieMask, device: torch.device) -> tuple[Tensor, ...]:
    """The levels of a filter as tensors of a device."""
    if device not in mask.copies:
        mask.copies[device] = tuple(torch.from_numpy(a).to(device) for a in mask.allowed)
    found: tuple[Tensor, ...] = mask.copies[device]
    return found
