"""What is learned, as arrays by name, and back, bit for bit."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from improvement.errors import Invalid

#: Arrays by name: all that a checkpoint holds of a training's state, and what restores it bit for bit.
Arrays = Mapping[str, NDArray[Any]]


def weights(model: nn.Module) -> dict[str, NDArray[Any]]:
    """Return copies of a model's weights, frozen ones included."""
    return {f"model.{name}": each.numpy().copy() for name, each in model.state_dict().items()}


def with_weights(model: nn.Module, arrays: Arrays) -> None:
    """Put weights into a model; raises Invalid naming what is missing or has another shape."""
    wanted = model.state_dict()
    model.load_state_dict({name: _like(arrays, f"model.{name}", each) for name, each in wanted.items()})


def optimiser_arrays(
    name: str, optimiser: torch.optim.Optimizer, parts: Sequence[tuple[str, nn.Parameter]]
) -> dict[str, NDArray[Any]]:
    """Return copies of what an optimiser remembers of each weight; nothing before its first step."""
    return {
        f"{name}.{part}.{what}": np.array(value.numpy())
        for part, weight in parts
        for what, value in optimiser.state.get(weight, {}).items()
    }


def restore_optimiser(
    name: str, optimiser: torch.optim.Optimizer, parts: Sequence[tuple[str, nn.Parameter]], arrays: Arrays
) -> None:
    """Put back what `optimiser_arrays` returned; raises Invalid where it does not fit."""
    for part, weight in parts:
        remembered = {
            "step": torch.zeros(()),
            "exp_avg": torch.zeros_like(weight),
            "exp_avg_sq": torch.zeros_like(weight),
        }
        if f"{name}.{part}.step" in arrays:
            optimiser.state[weight] = {
                what: _like(arrays, f"{name}.{part}.{what}", each) for what, each in remembered.items()
            }


def _like(arrays: Arrays, name: str, wanted: torch.Tensor) -> torch.Tensor:
    if name not in arrays or arrays[name].shape != tuple(wanted.shape):
        got = arrays[name].shape if name in arrays else "nothing"
        raise Invalid(f"{name}: expected an array of shape {tuple(wanted.shape)}, got {got}")
    return torch.from_numpy(np.array(arrays[name], np.float32))
