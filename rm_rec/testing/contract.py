"""Checks of a contract's promises, and the error that they raise."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NoReturn, TypeVar

import torch
from pydantic import BaseModel
from torch import Tensor, nn

Case = TypeVar("Case")
M = TypeVar("M", bound=nn.Module)


class ContractError(AssertionError):
    """A promise of a contract is broken; the first line of the message has the case, the promise and what was seen."""


@dataclass(frozen=True)
class Check(Generic[Case]):
    """One promise of a contract; call it with a case to check the promise."""

    function: Callable[[Case], None]

    @property
    def name(self) -> str:
        """Name of the check, for test ids."""
        return self.function.__name__

    @property
    def promise(self) -> str:
        """Return the promise in one sentence: the first line of the check's docstring."""
        return (self.function.__doc__ or self.name).strip().splitlines()[0].rstrip(".")

    def __call__(self, case: Case) -> None:
        """Raise ContractError if the case breaks the promise, or raises an error during the check."""
        try:
            self.function(case)
        except ContractError as error:
            error.args = (self._message(case, str(error)),)
            raise
        except Exception as error:
            first_line = (str(error).splitlines() or [""])[0]
            seen = f"{type(error).__name__} was raised: {first_line}"
            raise ContractError(self._message(case, seen)) from error

    def _message(self, case: Case, seen: str) -> str:
        return f'{case} breaks the promise "{self.promise}" ({self.name}): {seen}'


def by_name(functions: Iterable[Callable[[Case], None]]) -> dict[str, Check[Case]]:
    """Return a check for each function, by the function's name."""
    return {function.__name__: Check(function) for function in functions}


def broken(seen: str) -> NoReturn:
    """Raise ContractError with what was seen instead of what was promised."""
    raise ContractError(seen)


def expect(condition: bool | Tensor, seen: str) -> None:
    """Raise ContractError with what was seen, unless the condition is true."""
    if not bool(condition):
        broken(seen)


def expect_identical(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    """Check that named tensors are equal bit by bit, and have the same types."""
    expect_same_names(found, expected, where)
    for name, values in expected.items():
        expect(
            found[name].dtype == values.dtype and found[name].shape == values.shape,
            f"{name!r} {where} is {tuple(found[name].shape)} of {found[name].dtype}, expected "
            f"{tuple(values.shape)} of {values.dtype}",
        )
        if not torch.equal(found[name], values):
            broken(f"{name!r} {where} differs by up to {largest_difference(found[name], values):.3g}, expected none")


def expect_close(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str, tolerance: float = 1e-5
) -> None:
    """Check that named tensors are equal up to a tolerance, and integers exactly."""
    expect_same_names(found, expected, where)
    for name, values in expected.items():
        expect(
            found[name].shape == values.shape,
            f"{name!r} {where} has shape {tuple(found[name].shape)}, expected {tuple(values.shape)}",
        )
        allowed = tolerance if values.dtype.is_floating_point else 0.0
        difference = largest_difference(found[name], values)
        if not difference <= allowed:  # true for NaN
            broken(f"{name!r} {where} differs by up to {difference:.3g}, expected at most {allowed:g}")


def expect_same_names(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    """Check that the names of named tensors are the expected ones."""
    expect(found.keys() == expected.keys(), f"names {where} are {sorted(found)}, expected {sorted(expected)}")


def expect_finite(values: Tensor, name: str) -> None:
    """Check that a tensor has no NaN and no infinite value."""
    wrong = int((~torch.isfinite(values)).sum())
    expect(wrong == 0, f"{wrong} of {values.numel()} values of {name} are NaN or infinite, expected none")


def expect_attended_slices(attended: Sequence[slice], num_features: int, token_dim: int) -> None:
    """Check that slices of an answer are inside it, do not overlap, and have the size of a token."""
    covered: set[int] = set()
    for vector in attended:
        inside = vector.step is None and vector.start >= 0 and vector.stop <= num_features
        expect(inside, f"attended has {vector}, but an answer has {num_features} numbers")
        size = vector.stop - vector.start
        expect(size == token_dim, f"{vector} of attended has {size} numbers, expected token_dim, {token_dim}")
        indices = set(range(vector.start, vector.stop))
        expect(not covered & indices, f"{vector} of attended overlaps another slice")
        covered |= indices


def differ(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Return whether any of the named tensors differs."""
    return any(not torch.equal(first[name], second[name]) for name in first)


def largest_difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest absolute difference; NaN if a value is NaN."""
    if not found.numel():
        return 0.0
    return float((found.detach().double() - expected.detach().double()).abs().max())


def copy_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return detached copies of named tensors."""
    return {name: values.detach().clone() for name, values in tensors.items()}


def described(settings: BaseModel) -> str:
    """Describe the settings that differ from their defaults; empty if none does."""
    changed = settings.model_dump(exclude_defaults=True)
    return f"({', '.join(f'{name}={value!r}' for name, value in changed.items())})" if changed else ""


def draw_weights(module: M, seed: int = 0, spread: float = 0.3) -> M:
    """Draw all weights of a module at random, so that weights initialised to zero have an effect too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * spread)
    return module


def send_backward(loss: Tensor) -> None:
    """Compute the gradients of a loss."""
    loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it


def check_gradient(gradient: Tensor | None, name: str) -> Tensor:
    """Check that a gradient exists and is finite, and return it."""
    if gradient is None:
        broken(f"{name} has no gradient")
    expect_finite(gradient, f"the gradient of {name}")
    return gradient
