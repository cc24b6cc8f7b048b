"""A trained model as an MLflow model: signature, example, requirements and its code; no pickle.

MLmodel             flavor `python_function`, signature, input example
pyfunc_model.py     the file that MLflow runs to load the model
code/               copies of rm_rec, feature_store and pipelines, which are on no package index
requirements.txt    the packages that they import, with versions
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
    """Return the types of a request's columns: those of the files that the model was trained on."""
    impressions, columns = config.impressions, ServedColumns.of(card)
    source = ParquetSource.open(impressions.path if isinstance(impressions, ImpressionFile) else config.log)
    kinds = {name: source.kind(name) for name in (*columns.required, columns.time)}
    types = {name: _TYPES.get(kind, DataType.string) for name, kind in kinds.items()}
    return types | {name: DataType.double for name in columns.dense if name not in columns.context}


def write_mlflow_model(
    folder: Path, artifact: Path, trained: TrainedModel, types: Mapping[str, DataType], identity: Model
) -> None:
    """Write an MLflow model into a new folder; `identity` is its run and id in the tracking store."""
    columns = ServedColumns.of(trained.card)
    mlflow.pyfunc.save_model(
        path=str(folder),
        python_model=str(_SCRIPT),
        code_paths=[str(path) for path in _CODE],
        artifacts={MODEL: str(artifact)},
        model_config=dict.fromkeys(served_columns.SETTINGS, ""),  # MLflow drops other keys
        signature=_signature(columns, types),
        input_example=_example(columns, types, trained),
        pip_requirements=requirements(),
        mlflow_model=identity,
    )


def requirements() -> list[str]:
    """Return the packages that serving imports, in the versions that are installed here.

    `fbgemm-gpu` is among them because torchrec accepts any version of it, but only one works with this torch.
    """
    versions = {}
    for name in _SERVING_IMPORTS:
        with suppress(PackageNotFoundError):  # redis is optional
            versions[name] = version(name).split("+")[0]  # "+cpu" is not part of a version on a package index
    return [f"{name}=={number}" for name, number in versions.items()]


def _signature(columns: ServedColumns, types: Mapping[str, DataType]) -> ModelSignature:
    specs = [ColSpec(types[name], name) for name in columns.required]
    if columns.time not in columns.required:
        specs.append(ColSpec(types[columns.time], columns.time, required=False))
    return ModelSignature(Schema(specs), Schema([ColSpec(DataType.double, PREDICTION)]))


def _example(columns: ServedColumns, types: Mapping[str, DataType], trained: TrainedModel) -> pd.DataFrame:
    """Make a request for the most frequent items and contexts, with an invented user: a model contains no user ids."""
    items = trained.vocabularies.item_ids[:_EXAMPLE_ROWS].to_pylist()
    values: dict[str, Any] = dict.fromkeys(columns.dense, 0)
    for name in columns.context:
        ids = trained.vocabularies.features[name].ids.drop_null()
        values[name] = ids[0].as_py() if len(ids) else 0
    values[columns.user] = 1
    rows = {name: [values.get(name)] * len(items) for name in columns.required} | {columns.item: items}
    return pd.DataFrame({name: [_typed(value, types[name]) for value in column] for name, column in rows.items()})


def _typed(value: int | str, kind: DataType) -> Any:
    """Convert an id, a number or its text to a type of the signature."""
    if kind == DataType.long:
        return int(value)
    if kind == DataType.double:
        return float(value)
    if kind == DataType.boolean:
        return bool(int(value))
    if kind == DataType.datetime:
        return pd.Timestamp(value)
    return str(value)
