"""The model as MLflow serves it: click probabilities from users' memories alone.

RM_REC_MEMORIES=memories mlflow models serve --model-uri models:/clicks@champion --env-manager local

MLflow stores this file with each model and runs it when the model is loaded ("models from code"), so that nothing is
pickled. How to serve over HTTP and in Spark: docs/serving.md.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import mlflow
import pandas as pd
import pyarrow as pa
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PythonModel, PythonModelContext

from feature_store.stores import MemoryStore, shared_store
from pipelines.errors import SettingsError
from pipelines.models.artifact import TrainedModel, load_model
from pipelines.models.memory_records import check_space
from pipelines.registry.served_columns import ALLOWED, MEMORIES, MODEL, MOMENT, PREDICTION, ServedColumns
from rm_rec.errors import RmRecError

# Environment variables that are used where model_config has no value.
_VARIABLES = {MEMORIES: "RM_REC_MEMORIES", MOMENT: "RM_REC_AT", ALLOWED: "RM_REC_ALLOW_PACKAGES"}


class RequestRefused(MlflowException):
    """A mistake in a request, in one line; the server answers with status 400."""

    def serialize_as_json(self) -> str:
        """Return only the line: MLflow's server would put the whole request before it."""
        self.message = str(self)
        text: str = super().serialize_as_json()
        return text


@final
class ServedModel(PythonModel):
    """A click model with the store of memories that it reads."""

    _folder: str
    _trained: TrainedModel
    _columns: ServedColumns
    _memories: str
    _at: int | None

    def load_context(self, context: PythonModelContext) -> None:
        """Load the model and open the store, so that a server with bad settings does not start.

        Raises:
            SettingsError: no memories are named, or the time of rows without one is no whole number.
            DataError: there is no store of memories at that address.
            ModelError: the memories are of another memory space, or the model needs a package that is not allowed.
        """
        self._folder = context.artifacts[MODEL]
        config = context.model_config or {}
        self._trained = load_model(Path(self._folder), _allowed_packages(config))
        self._columns = ServedColumns.of(self._trained.card)
        memories = _setting(config, MEMORIES)
        if memories is None:
            raise SettingsError(
                f"no memories are named: load the model with model_config={{{MEMORIES!r}: ADDRESS}}, or set the "
                f"environment variable {_VARIABLES[MEMORIES]}=ADDRESS; a store that build_memory made"
            )
        self._memories, self._at = memories, _moment(_setting(config, MOMENT))
        self._store()

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None
    ) -> pd.DataFrame:
        """Return one column, `prediction`: each row's click probability. Raises RequestRefused, an MlflowException."""
        try:
            probability = self._columns.score(model_input, self._store(), self._trained, self._at)
        except (RmRecError, pa.ArrowException) as error:
            raise RequestRefused(" ".join(str(error).split()), mlflow.exceptions.INVALID_PARAMETER_VALUE) from error
        return pd.DataFrame({PREDICTION: probability}, index=model_input.index)

    def _store(self) -> MemoryStore:
        store = shared_store(self._memories)
        check_space(self._trained, store, self._folder)  # each time: another store may have been put there
        return store


def _setting(config: Mapping[str, Any], name: str) -> str | None:
    """Return a setting of the model's config or, if that is empty, of the environment; None if both are empty."""
    value = config.get(name)
    if value is None or value == "":
        value = os.environ.get(_VARIABLES[name], "").strip()
    return str(value) or None


def _allowed_packages(config: Mapping[str, Any]) -> list[str]:
    packages = config.get(ALLOWED)
    if isinstance(packages, list | tuple):
        return [*map(str, packages)]
    return [name.strip() for name in (_setting(config, ALLOWED) or "").split(",") if name.strip()]


def _moment(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return int(text)
    except ValueError as error:
        raise SettingsError(
            f"{MOMENT!r} of model_config, or {_VARIABLES[MOMENT]}, is {text!r}; expected a whole number: the "
            "time of rows without one, in the log's unit (microseconds where it has timestamps)"
        ) from error


mlflow.models.set_model(ServedModel())  # the one line that MLflow runs this file for
