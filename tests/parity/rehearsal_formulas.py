"""Rehearsal's losses, one number at a time, from the formulas in the docstrings."""

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

Vector = np.ndarray


def numpy_of(weight: Tensor) -> Vector:
    return weight.detach().numpy().astype(np.float64)


def log_sum_exp(logits: Sequence[float]) -> float:
    largest = max(logits)
    return largest + math.log(sum(math.exp(logit - largest) for logit in logits))


def recollection(
    answer: Vector, true: Vector, true_event: tuple[int, ...], candidates: Sequence[tuple[Vector, tuple[int, ...]]]
) -> tuple[float, bool]:
    """-log softmax of the true event among itself and the candidates that are other events; and is it the highest?"""
    right = float(answer @ true)
    wrong = [float(answer @ vector) for vector, event in candidates if event != true_event]
    return log_sum_exp([right, *wrong]) - right, all(right > logit for logit in wrong)


def familiarity(true_logits: Sequence[float], mixed_logits: Sequence[float]) -> tuple[float, float]:
    """Mean of -log sigmoid(logit) of the true and -log sigmoid(-logit) of the mixed; and the share told rightly."""
    signed = [*true_logits, *(-logit for logit in mixed_logits)]
    losses = [log_sum_exp([0.0, -logit]) for logit in signed]
    return sum(losses) / len(losses), sum(logit > 0 for logit in signed) / len(signed)


def perceptron(layers: nn.Sequential, features: Vector) -> float:
    first, _, second = layers
    hidden = np.maximum(numpy_of(first.weight) @ features + numpy_of(first.bias), 0.0)
    return float((numpy_of(second.weight) @ hidden + numpy_of(second.bias))[0])


def age_bin(age: int) -> int:
    """floor(log2(1 + age)) in whole numbers."""
    return (age + 1).bit_length() - 1


def shares(logits: Sequence[float]) -> list[float]:
    total = log_sum_exp(logits)
    return [math.exp(logit - total) for logit in logits]
