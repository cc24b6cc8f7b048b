"""What the tests of the gate are given: each fixture of conftest.py by what it takes and answers."""

from collections.abc import Callable

from mlflow.entities import Run

TRAINED = "trained-for-promotion"  # the registered model that train_ctr made itself
Register = Callable[..., str]  # a model's folder and an alias -> the registered model's name
Gate = Callable[..., int]  # that name and options -> the exit code
Standing = Callable[[str], dict[str, str]]  # that name -> its aliases' versions
Decisions = Callable[[str], list[Run]]  # that name -> the runs of its promotions
