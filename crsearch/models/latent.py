"""The attention layer that makes a latent thought: one vector between prompt and answer, in place of words.

Source: LatentR3 as METHODS describes it (CRS §4.1.2 compares with it); file format and checks: this project.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from crsearch.errors import ModelError
from crsearch.runs import write_atomic


class LatentAttention(nn.Module):
    """Single-head attention of the last position of a prompt over all of it, as wide as the model.

        z = softmax(q k^T / sqrt(D)) v,   q from the last state, k and v from all, q and k with rotary positions

    There is no output projection, no bias, and no mask but that of the filling.

    Args:
        width: of the model (D), even.
        base: of the rotary positions.

    Raises:
        ModelError: an odd width.
    """

    def __init__(self, width: int, base: float = 1_000.0) -> None:
        super().__init__()
        if width % 2:
            raise ModelError(f"a latent thought over {width} numbers: rotary positions need an even width")
        self.base = base
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)

    def initialise(self, std: float, generator: torch.Generator) -> "LatentAttention":
        """Draw all weights from a normal distribution; the layer itself, for chaining."""
        with torch.no_grad():
            for weight in self.parameters():
                weight.copy_(torch.randn(weight.shape, generator=generator) * std)
        return self

    def forward(self, hidden_BTD: Float[Tensor, "B T D"], lengths_B: Int64[Tensor, " B"]) -> Float[Tensor, "B D"]:
        """The latent thought of each prompt.

        Args:
            hidden_BTD: last states of the model, filled up on the right.
            lengths_B: real positions of each row, at least 1.
        """
        B, T, D = hidden_BTD.shape
        place_T = torch.arange(T, device=hidden_BTD.device)
        last_B = lengths_B - 1
        key_BTD = rotate(self.key(hidden_BTD), place_T, self.base)
        query_BD = rotate(self.query(hidden_BTD[torch.arange(B, device=last_B.device), last_B]), last_B, self.base)
        score_BT = torch.einsum("bd,btd->bt", query_BD.float(), key_BTD.float()) / math.sqrt(D)
        weight_BT = score_BT.masked_fill(place_T > last_B[:, None], -torch.inf).softmax(-1)
        # without a bias, the mean of the values is the value of the mean: T times cheaper
        thought: Tensor = self.value(torch.einsum("bt,btd->bd", weight_BT, hidden_BTD.float()))
        return thought


def rotate(vector: Float[Tensor, "*B D"], position: Int64[Tensor, "*P"], base: float) -> Float[Tensor, "*B D"]:
    """Rotary positions over the whole width: entries i and i + D/2 turn together, by position x base^(-2i/D).

    Args:
        vector: one per position along the axis before the last.
        position: of each, from 0.

    The product of two rotated vectors depends on the difference of their positions only.
    """
    half = vector.shape[-1] // 2
    speed = base ** (-torch.arange(half, device=vector.device, dtype=torch.float32) / half)
    angle = position[..., None].float() * speed
    cos, sin = angle.cos().to(vector.dtype), angle.sin().to(vector.dtype)
    a, b = vector[..., :half], vector[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


_ABOUT = "latent"
"""Key of the metadata of a saved layer."""


# -- files ------------------------------------------------------------------------------------------------------------
def attention_file(folder: Path) -> Path:
    """Where the attention layer of a saved model lies: beside its folder, which stays an ordinary model folder.

    >>> attention_file(Path("models/latent-r3")).as_posix()
    'models/latent-r3.attention.safetensors'
    """
    return folder.with_name(f"{folder.name}.attention.safetensors")


def save_attention(attention: LatentAttention, model: Any, file: Path) -> None:
    """Write the layer with a digest of the model whose states it reads.

    Raises:
        StorageError: no room or no permission.
    """
    tensors = {name: weight.detach().cpu().contiguous() for name, weight in attention.state_dict().items()}
    about = json.dumps({"base": attention.base, "model": weights_digest(model)}, sort_keys=True)
    write_atomic(file, save(tensors, metadata={_ABOUT: about}))  # one key: safetensors writes several in any order


def load_attention(file: Path, model: Any) -> LatentAttention:
    """Read a layer that ``save_attention`` wrote for this very model, onto the model's device.

    Raises:
        ModelError: the file is missing or broken, or belongs to another model.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            about = json.loads((opened.metadata() or {})[_ABOUT])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        attention = LatentAttention(len(tensors["query.weight"]), about["base"])
        attention.load_state_dict(tensors)
        owner = about["model"]
    except FileNotFoundError as e:
        raise ModelError(f"{file}: no attention layer of a latent thought here: train latent-r3 first") from e
    except (SafetensorError, KeyError, ValueError, RuntimeError) as e:
        raise ModelError(f"{file}: broken attention layer ({e}): train latent-r3 again") from e
    if owner != weights_digest(model):
        raise ModelError(f"{file}: the layer was trained on another model than the one given: use the two of one stage")
    return attention.to(next(model.parameters()).device).eval()


def weights_digest(model: Any) -> str:
    """sha256 (hex) of names, types, shapes and values of all weights, the same on every device."""
    found = hashlib.sha256()
    for name, weight in model.state_dict().items():
        found.update(f"{name} {weight.dtype} {list(weight.shape)}".encode())
        found.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()
