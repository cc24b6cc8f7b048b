"""What slow loops over formulas start from: a few users' segments, and weights as NumPy arrays."""

import numpy as np
import torch
from torch import Tensor, nn

from rm_rec.machines.base import State, StateTrace

DIM, LENGTH, SEGMENTS = 5, 3, 4
USERS = 4


def histories(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Nobody, a beginner, a user whose padding lies anywhere, and one without padding: events, and which are real."""
    generator = torch.Generator().manual_seed(0)
    segments = torch.randn(USERS, SEGMENTS, LENGTH, DIM, generator=generator, dtype=dtype)
    valid = torch.ones(USERS, SEGMENTS, LENGTH, dtype=torch.bool)
    valid[0] = False
    valid[1, 0, 2], valid[1, 1:] = False, False
    valid[2, 0, 0] = valid[2, 1, 1] = valid[2, 3, 2] = False
    valid[2, 2] = False
    return segments, valid


def real_events(segments: Tensor, valid: Tensor, user: int, segment: int) -> list[np.ndarray]:
    """The real events of one segment, in their order."""
    return [numpy_of(segments[user, segment, event]) for event in range(LENGTH) if valid[user, segment, event]]


def events_by_segment(segments: Tensor, valid: Tensor, user: int) -> list[list[np.ndarray]]:
    """The real events of each segment."""
    return [real_events(segments, valid, user, segment) for segment in range(SEGMENTS)]


def agree(trace: StateTrace, user: int, boundary: int, expected: dict[str, np.ndarray]) -> None:
    """Compare a user's state at a boundary, part by part."""
    assert trace.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(trace[name][user, boundary].numpy(), values, atol=1e-9, err_msg=name)


def start_of(machine_state: State, user: int = 0) -> dict[str, np.ndarray]:
    """Copy one user's part of a state."""
    return {name: values[user].detach().numpy().copy() for name, values in machine_state.items()}


def numpy_of(values: Tensor) -> np.ndarray:
    return values.detach().numpy().astype(np.float64)


def weights_of(module: nn.Module) -> dict[str, np.ndarray]:
    """Return a module's weights by name."""
    return {name: numpy_of(weight) for name, weight in module.named_parameters()}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def softplus(x: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(x))


def softmax(x: np.ndarray) -> np.ndarray:
    weight = np.exp(x - x.max())
    return weight / weight.sum()


def layer_norm(layer: nn.LayerNorm, x: np.ndarray) -> np.ndarray:
    scaled = (x - x.mean()) / np.sqrt(x.var() + layer.eps)
    return scaled * numpy_of(layer.weight) + numpy_of(layer.bias)


def by_content(key: np.ndarray, strength: float, memory: np.ndarray) -> np.ndarray:
    """softmax_k(strength cos(key, m_k))."""
    cosines = [row @ key / (np.linalg.norm(row) * np.linalg.norm(key)) for row in memory]
    return softmax(strength * np.array(cosines))


def erased_and_added(memory: np.ndarray, weight: np.ndarray, erase: np.ndarray, add: np.ndarray) -> np.ndarray:
    """m_k * (1 - w_k erase) + w_k add, number by number."""
    after = np.empty_like(memory)
    for k in range(memory.shape[0]):
        for d in range(memory.shape[1]):
            after[k, d] = memory[k, d] * (1.0 - weight[k] * erase[d]) + weight[k] * add[d]
    return after


def gated_recurrent(weights: dict[str, np.ndarray], x: np.ndarray, h: np.ndarray) -> np.ndarray:
    """A gated recurrent unit (Cho et al. 2014): weights stacked as reset, keep, candidate."""
    dim = len(h)
    seen = weights["weight_ih"] @ x + weights["bias_ih"]
    held = weights["weight_hh"] @ h + weights["bias_hh"]
    reset = sigmoid(seen[:dim] + held[:dim])
    keep = sigmoid(seen[dim : 2 * dim] + held[dim : 2 * dim])
    candidate = np.tanh(seen[2 * dim :] + reset * held[2 * dim :])
    return (1.0 - keep) * candidate + keep * h


def cut(row: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    """Cut a row into parts of those sizes."""
    return np.split(row, np.cumsum(sizes)[:-1])
