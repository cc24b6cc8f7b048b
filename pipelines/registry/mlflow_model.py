"""A trained model as an MLflow model: signature, example, requirements, the code it was trained with; no pickle.

MLmodel             flavor `python_function`, signature, input example
pyfunc_model.py     the file that MLflow runs to load the model
code/               rm_rec, feature_store and pipelines as they were: no index has this package
requirements.txt    the versions of what they import
artifacts/model/    the model's files, see `pipelines.models.artifact`
"""

from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema

import feature_store
import pipelines
import rm_rec
from feature_store.data_config import DataConfig, ImpressionFile
from feature_store.logs.parquet_source import BOOLEAN, DATE, FLOAT, INTEGER, MOMENT, ZONED, ParquetSource
from pipelines.models.artifact import ModelCard, TrainedModel
from pipelines.registry import served_columns
from pipelines.registry.served_columns import MODEL, PREDICTION, ServedColumns

_SCRIPT = Path(__file__).parent / "pyfunc_model.py"
_CODE = tuple(Path(package.__path__[0]) for package in (rm_rec, feature_store, pipelines))
_TYPES = {
    INTEGER: DataType.long,
    FLOAT: DataType.double,
    BOOLEAN: DataType.boolean,
    MOMENT: DataType.datetime,
    ZONED: DataType.datetime,
    DATE: DataType.datetime,
}  # text of any kind is a string
_EXAMPLE_ROWS = 2
_SERVING_IMPORTS = (
    *("torch", "torchrec", "fbgemm-gpu", "numpy", "pandas", "pyarrow", "duckdb", "lmdb", "redis"),
    *("pydantic", "jaxtyping", "safetensors", "mlflow"),
)


def served_types(config: DataConfig, card: ModelCard) -> dict[str, DataType]:
    """Say what a request's columns hold, by what they held in the files that the model was trained on."""
    shown, columns = config.impressions, ServedColumns.of(card)
    source = ParquetSource.open(shown.path if isinstance(shown, ImpressionFile) else config.log)
    kinds = {name: source.kind(name) for name in (*columns.required, columns.time)}
    types = {name: _TYPES.get(kind, DataType.string) for name, kind in kinds.items()}
    return types | {name: DataType.double for name in columns.dense if name not in columns.context}


def write_mlflow_model(
    folder: Path, artifact: Path, trained: TrainedModel, types: Mapping[str, DataType], identity: Model
) -> None:
    """Write a model of MLflow's into a folder that must be new; `identity` says whose it is in the tracking store."""
    columns = ServedColumns.of(trained.card)
    mlflow.pyfunc.save_model(
        path=str(folder),
        python_model=str(_SCRIPT),
        code_paths=[str(path) for path in _CODE],
        artifacts={MODEL: str(artifact)},
        model_config=dict.fromkeys(served_columns.SETTINGS, ""),  # MLflow drops what is not named here
        signature=_signature(columns, types),
        input_example=_example(columns, types, trained),
        pip_requirements=requirements(),
        mlflow_model=identity,
    )


def requirements() -> list[str]:
    """Return what serving imports, in the versions that are installed here.

    `fbgemm-gpu` is named, because torchrec asks for any version of it and one alone loads with this torch.
    """
    found = {}
    for name in _SERVING_IMPORTS:
        with suppress(PackageNotFoundError):  # redis, where that part is not installed
            found[name] = version(name).split("+")[0]  # "+cpu" is no version on an index
    return [f"{name}=={number}" for name, number in found.items()]


def _signature(columns: ServedColumns, types: Mapping[str, DataType]) -> ModelSignature:
    needed = [ColSpec(types[name], name) for name in columns.required]
    if columns.time not in columns.required:
        needed.append(ColSpec(types[columns.time], columns.time, required=False))
    return ModelSignature(Schema(needed), Schema([ColSpec(DataType.double, PREDICTION)]))


def _example(columns: ServedColumns, types: Mapping[str, DataType], trained: TrainedModel) -> pd.DataFrame:
    """Make a request for the most frequent items and contexts, by nobody: a model names no user, not even here."""
    items = trained.vocabularies.item_ids[:_EXAMPLE_ROWS].to_pylist()
    values: dict[str, Any] = dict.fromkeys(columns.dense, 0)
    for name in columns.context:
        known = trained.vocabularies.features[name].ids.drop_null()
        values[name] = known[0].as_py() if len(known) else 0
    values[columns.user] = 1
    rows = {name: [values.get(name)] * len(items) for name in columns.required} | {columns.item: items}
    return pd.DataFrame({name: [_typed(value, types[name]) for value in given] for name, given in rows.items()})


def _typed(value: int | str, kind: DataType) -> Any:
    """Bring an id, a number or its text to a signature's type."""
    if kind == DataType.long:
        return int(value)
    if kind == DataType.double:
        return float(value)
    if kind == DataType.boolean:
        return bool(int(value))
    if kind == DataType.datetime:
        return pd.Timestamp(value)
    return str(value)
