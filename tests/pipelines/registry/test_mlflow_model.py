"""An MLflow model on disk: no pickle, the code and versions that serving needs, and the types of the log."""

import json
import os
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from packaging.requirements import Requirement

from feature_store.data_config import ImpressionFile, LabelColumn, NextEvent
from pipelines.models.artifact import load_model
from pipelines.registry.mlflow_model import requirements, served_types
from tests.pipelines.registry.served import Served, small_log, train

# Loads and asks a model as a server does, far from this checkout, and says what was imported from where.
_ASK = """
import ast, json, sys
from pathlib import Path
import mlflow
model = mlflow.pyfunc.load_model(sys.argv[1], model_config={"memories": sys.argv[2]})
answers = model.predict(model.input_example)["prediction"].tolist()
import feature_store, pipelines, rm_rec
ours = [m.__file__ for n, m in sys.modules.items() if n.split(".")[0] in ("pipelines", "feature_store", "rm_rec")]
imported = set()
for file in ours:
    for node in ast.walk(ast.parse(Path(file).read_text())):
        if isinstance(node, ast.Import):
            imported |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
print(json.dumps({"answers": answers, "files": ours, "imported": sorted({name.split(".")[0] for name in imported})}))
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return train(tmp_path_factory.mktemp("served")).write()


@pytest.fixture(scope="module")
def asked(served: Served, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    memories = served.build(served.folder / "memories")
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run(
        [sys.executable, "-c", _ASK, str(served.served), memories],
        cwd=tmp_path_factory.mktemp("elsewhere"),
        env=outside,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    answer: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return answer


def test_nothing_in_it_is_a_pickle(served: Served) -> None:
    files = [path for path in served.served.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {"", ".py", ".typed", ".yaml", ".json", ".txt", ".safetensors", ".arrow"}
    for path in files:
        assert not path.read_bytes().startswith(b"\x80"), path  # how every pickle since protocol 2 begins
    flavor = yaml.safe_load((served.served / "MLmodel").read_text())["flavors"]["python_function"]
    assert flavor["loader_module"] == "mlflow.pyfunc.loaders.code_model"
    assert "python_model" not in flavor  # the name of a pickled model's file


def test_the_models_own_files_are_in_it(served: Served) -> None:
    assert load_model(served.served / "artifacts" / "model").card == served.trained.card


def test_it_runs_the_code_it_was_trained_with(served: Served, asked: dict[str, Any]) -> None:
    assert all(0 < answer < 1 for answer in asked["answers"])
    inside = [Path(file).is_relative_to(served.served) for file in asked["files"]]
    assert len(inside) > 20
    assert all(inside)


def test_its_requirements_are_what_it_imports(served: Served, asked: dict[str, Any]) -> None:
    listed = {Requirement(line).name for line in (served.served / "requirements.txt").read_text().splitlines()}
    distributions = packages_distributions()
    ours = {"pipelines", "feature_store", "rm_rec"}
    imported = {name for name in asked["imported"] if name not in sys.stdlib_module_names} - ours
    assert {"torch", "lmdb", "pandas"} <= imported
    missing = {name for name in imported if not {found.lower() for found in distributions[name]} & listed}
    assert not missing
    assert "fbgemm-gpu" in listed


def test_requirements_are_versions_that_an_index_has() -> None:
    for line in requirements():
        (pin,) = Requirement(line).specifier
        assert pin.operator == "=="
        assert "+" not in pin.version


@pytest.mark.parametrize("text", [False, True])
def test_types_are_those_of_the_log(tmp_path: Path, text: bool) -> None:
    log = small_log(text=text, moments=text)
    log = log.set_column(log.column_names.index("slot"), "slot", pa.array([True, False] * (len(log) // 2)))
    served = train(tmp_path, log)
    types = {name: kind.name for name, kind in served_types(served.data, served.trained.card).items()}
    assert types == {
        "uid": "string" if text else "long",
        "sku": "string" if text else "long",
        "device": "string",
        "slot": "boolean",
        "price": "double",
        "ts": "datetime" if text else "long",
    }
    served.write()
    example = json.loads((served.served / "input_example.json").read_text())
    assert example["columns"] == ["uid", "sku", "device", "slot", "price"]


def test_impressions_in_files_of_their_own_name_the_columns(tmp_path: Path) -> None:
    shown = ImpressionFile(path=str(tmp_path / "shown.parquet"), user="who", item="what", time="when", column="clicked")
    served = train(tmp_path, shown=shown)
    assert set(served_types(served.data, served.trained.card)) == {"who", "what", "when"}


def test_a_dense_column_may_be_whole_numbers_and_a_category_too(tmp_path: Path) -> None:
    shown = LabelColumn(column="clicked", context_features=("slot",), context_dense=("slot", "shop"))
    served = train(tmp_path, shown=shown)
    types = {name: kind.name for name, kind in served_types(served.data, served.trained.card).items()}
    assert types == {"uid": "long", "sku": "long", "slot": "long", "shop": "double", "ts": "long"}
    served.write()


def test_next_event_models_ask_for_users_and_items(tmp_path: Path) -> None:
    served = train(tmp_path, shown=NextEvent()).write()
    signature = yaml.safe_load((served.served / "MLmodel").read_text())["signature"]
    assert [(column["name"], column["required"]) for column in json.loads(signature["inputs"])] == [
        ("uid", True),
        ("sku", True),
        ("ts", False),
    ]
    (output,) = json.loads(signature["outputs"])
    assert (output["name"], output["type"]) == ("prediction", "double")
