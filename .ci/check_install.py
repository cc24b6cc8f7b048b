"""Look at an rm-rec that was installed from its wheel, run by that environment's Python: CHECKOUT FOLDER.

The wheel holds the files of the three packages and nothing else; what was trained in FOLDER names its version, and the
model that MLflow keeps of it loads and answers from the code that it carries.
"""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import mlflow

import pipelines
import rm_rec
from pipelines import build_memory
from pipelines.runs.tracking import code_version

PACKAGES = ("rm_rec", "feature_store", "pipelines")


def main(checkout: Path, folder: Path) -> None:
    """Say what is wrong by an AssertionError."""
    expected = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]["version"]
    for package in (rm_rec, pipelines):
        assert package.__path__[0].startswith(f"{folder}/env/"), f"{package.__path__[0]} is not the installed one"
    assert rm_rec.__version__ == code_version() == expected, (rm_rec.__version__, code_version(), expected)

    command = ["git", "-C", str(checkout), "ls-files", *PACKAGES]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - ours
    (wheel,) = folder.glob("rm_rec-*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    tracked = set(listed.stdout.split())
    assert packed == tracked, f"in the wheel alone: {packed - tracked}; missing in it: {tracked - packed}"

    uri = f"sqlite:///{folder}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    client = mlflow.MlflowClient()
    version = client.get_model_version_by_alias("rm-rec-quickstart", "candidate")
    assert version.tags["code_version"] == expected, version.tags
    memories = str(folder / "memories")
    address = "models:/rm-rec-quickstart@candidate"
    argv = ["--model", address, "--memories", memories, "--log", "data/synthetic.parquet", "--tracking_uri", uri]
    assert build_memory.main(argv) == 0
    model = mlflow.pyfunc.load_model(address, model_config={"memories": memories})
    carried = Path(mlflow.artifacts.download_artifacts(address)) / "code"
    assert {path.name for path in carried.iterdir()} == set(PACKAGES)
    answered = model.predict(model.input_example)
    assert answered["prediction"].between(0, 1).all(), answered
    print(f"rm-rec {expected} works as installed from {wheel.name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
