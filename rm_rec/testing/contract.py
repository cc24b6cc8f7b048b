"""What a check is, and what it says when a promise is broken."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, NoReturn, TypeVar

import torch
from pydantic import BaseModel
from torch import Tensor, nn

Case = TypeVar("Case")
M = TypeVar("M", bound=nn.Module)


class ContractError(AssertionError):
    """A promise of the contract is broken; the first line names the promise, what was seen, and for which case."""


@dataclass(frozen=True)
class Check(Generic[Case]):
    """One promise of a contract, held to by calling it with a case."""

    function: Callable[[Case], None]

    @property
    def name(self) -> str:
        """Name of the check, for lists of tests."""
        return self.function.__name__

    @property
    def promise(self) -> str:
        """Return the promise in one sentence: the first line of the check's docstring."""
        return (self.function.__doc__ or self.name).strip().splitlines()[0].rstrip(".")

    def __call__(self, case: Case) -> None:
        """Raise ContractError if the case does not keep the promise, or fails while it is asked."""
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
    """Return a check for each function, under the function's name."""
    return {function.__name__: Check(function) for function in functions}


def broken(seen: str) -> NoReturn:
    """Say what was seen instead of what was promised."""
    raise ContractError(seen)


def expect(kept: bool | Tensor, seen: str) -> None:
    """Say what was seen if the promise is not kept."""
    if not bool(kept):
        broken(seen)


def expect_identical(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    """Hold named tensors to being equal bit by bit, of the same type."""
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
    """Hold named tensors to being equal but for rounding; integers to being equal."""
    expect_same_names(found, expected, where)
    for name, values in expected.items():
        expect(
            found[name].shape == values.shape,
            f"{name!r} {where} has shape {tuple(found[name].shape)}, expected {tuple(values.shape)}",
        )
        allowed = tolerance if values.dtype.is_floating_point else 0.0
        difference = largest_difference(found[name], values)
        if not difference <= allowed:  # NaN is no agreement
            broken(f"{name!r} {where} differs by up to {difference:.3g}, expected at most {allowed:g}")


def expect_same_names(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    """Hold named tensors to having the expected names."""
    expect(found.keys() == expected.keys(), f"names {where} are {sorted(found)}, expected {sorted(expected)}")


def expect_finite(values: Tensor, what: str) -> None:
    """Hold a tensor to having no NaN and no infinity."""
    expect(torch.isfinite(values).all(), f"{what} holds {int((~torch.isfinite(values)).sum())} numbers of NaN or inf")


def differ(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Return whether any of the named tensors differs."""
    return any(not torch.equal(first[name], second[name]) for name in first)


def largest_difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest absolute difference; NaN where one is NaN."""
    if not found.numel():
        return 0.0
    return float((found.detach().double() - expected.detach().double()).abs().max())


def copy_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return named tensors that share nothing with the given ones."""
    return {name: values.detach().clone() for name, values in tensors.items()}


def described(settings: BaseModel) -> str:
    """Say in what settings differ from their defaults; nothing where they do not."""
    changed = settings.model_dump(exclude_defaults=True)
    return f"({', '.join(f'{name}={value!r}' for name, value in changed.items())})" if changed else ""


def draw_weights(module: M, seed: int = 0, spread: float = 0.3) -> M:
    """Draw every weight of a module: what starts at zero must be seen to matter, or to be right in not mattering."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * spread)
    return module


def send_backward(loss: Tensor) -> None:
    """Compute the gradients of a loss."""
    loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it


def check_gradient(gradient: Tensor | None, what: str) -> Tensor:
    """Hold a gradient to being there and finite, and return it."""
    if gradient is None:
        broken(f"{what} has no gradient")
    expect_finite(gradient, f"the gradient of {what}")
    return gradient
