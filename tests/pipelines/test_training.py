"""How training cuts a log into steps."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.training import Fit, Learner, OptimizerConfig, TrainingConfig
from rm_rec.config import RehearsalConfig
from rm_rec.model import ClickModel
from tests.fakes import FEATURES, model_config


@pytest.mark.parametrize(("events", "expected"), [(10_000_000, 4096), (409_600, 4096), (10_000, 100), (3, 1)])
def test_batches_of_a_small_log_are_smaller(events: int, expected: int, tmp_path: Path) -> None:
    data: Any = SimpleNamespace(num_training_events=events)
    learner = Learner(ClickModel(model_config(), FEATURES), RehearsalConfig())
    fit = Fit(learner, data, OptimizerConfig(), TrainingConfig(), tmp_path, fingerprint="")
    assert fit.batch_events == expected
