"""Histories for machines to fold, and what loops in NumPy need of them."""

import numpy as np
import torch
from torch import Tensor

DIM, LENGTH = 5, 3
LENGTHS = (0, 2, 3, 10, 12)  # events of each user


def histories(*, holes: bool = False) -> tuple[Tensor, Tensor]:
    """Draw segments [U, S, N, D] and which events are real; with holes, padding also lies between events."""
    segments = torch.randn(len(LENGTHS), 4, LENGTH, DIM, generator=torch.Generator().manual_seed(0))
    valid = torch.arange(4 * LENGTH) < torch.tensor(LENGTHS)[:, None]
    valid = valid.view(len(LENGTHS), 4, LENGTH)
    if holes:
        valid[3, 1] = False
        valid[4, 0, 1] = valid[4, 2, 0] = valid[4, 2, 2] = False
    return segments, valid


def real_events(segments: Tensor, valid: Tensor, user: int, segment: int) -> list[np.ndarray]:
    """The valid events of one segment, in their order."""
    return [
        segments[user, segment, event].numpy().astype(np.float64)
        for event in range(LENGTH)
        if valid[user, segment, event]
    ]


def numpy_of(weight: Tensor) -> np.ndarray:
    return weight.detach().numpy().astype(np.float64)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def softmax(x: np.ndarray) -> np.ndarray:
    shares = np.exp(x - x.max())
    return shares / shares.sum()


def layer_norm(layer: torch.nn.LayerNorm, x: np.ndarray) -> np.ndarray:
    scaled = (x - x.mean()) / np.sqrt(x.var() + layer.eps)
    return scaled * numpy_of(layer.weight) + numpy_of(layer.bias)
