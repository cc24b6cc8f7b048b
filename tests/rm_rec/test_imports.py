"""What a name costs: nobody waits for torch who does not use it, and the plugin needs few packages."""

import subprocess
import sys
from importlib.metadata import version

import pytest

import rm_rec

# What the memory may import beside the standard library: torch, pydantic and jaxtyping, and what these need.
NEEDED = (
    *("torch", "torchgen", "functorch", "numpy", "sympy", "mpmath", "networkx", "jinja2", "markupsafe", "filelock"),
    *("fsspec", "typing_extensions", "typing_inspection", "setuptools", "_distutils_hack", "pkg_resources", "pydantic"),
    *("pydantic_core", "annotated_types", "jaxtyping", "wadler_lindig", "rm_rec"),
)
ALONE = f"""
import os, sys, sysconfig

others = {{name.partition(".")[0] for name in os.listdir(sysconfig.get_paths()["purelib"])}} - set({NEEDED!r})

class Needed:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in others:
            return self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = map(Needed, sys.meta_path)
for name in ("torchrec", "mlflow", "pandas"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    sys.exit(name + " can be imported: the environment is not as bare as it should be")
"""
USE = """
import torch
from rm_rec import Histories, MemoryConfig, Queries, RehearsalConfig, RehearsalObjective, UserMemory

memory = UserMemory(MemoryConfig(token_dim=8, segment_length=4))
events = Histories.padded(torch.randn(1, 40, 8), torch.arange(40).view(1, 40))
queries = Queries(tokens=torch.randn(1, 8), user=torch.tensor([0]), time=torch.tensor([99]))
asked = RehearsalObjective(RehearsalConfig(), memory).begin(memory, events, queries)
for part in memory.stretches(events, queries):
    asked.loss(part).loss.backward()
assert memory.answer(memory.fold(memory.initial(1), events), queries).shape == (1, memory.num_features)
"""


@pytest.mark.parametrize(
    "statement",
    [
        "import rm_rec.errors",
        "import pipelines.evaluate.job",
        "import pipelines.make_log.job",
        "from rm_rec import FeatureSpace, MemoryConfig, ModelConfig, RehearsalConfig",
    ],
)
def test_tables_and_settings_need_no_torch(statement: str) -> None:
    code = f"{statement}; import sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_memory_needs_no_package_but_torch_pydantic_and_jaxtyping() -> None:
    ended = subprocess.run([sys.executable, "-c", ALONE + USE], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


MODEL = """
from rm_rec import ClickModel, FeatureSpace, ModelConfig

space = FeatureSpace(rows={"item": 50}, events=("item",), targets=("item",))
ClickModel(ModelConfig(), space, shardable=False)
"""


def test_a_click_model_needs_torchrec_only_for_tables_that_can_be_sharded() -> None:
    ended = subprocess.run([sys.executable, "-c", ALONE + MODEL], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    code = ALONE + MODEL + "ClickModel(ModelConfig(), space)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "No module named 'torchrec'" in ended.stderr


def test_every_name_is_there_and_is_offered() -> None:
    assert set(rm_rec.__all__) <= set(dir(rm_rec))
    for name in set(rm_rec.__all__) - {"__version__"}:
        assert getattr(rm_rec, name).__name__ == name
    assert rm_rec.__version__ == version("rm-rec")
    with pytest.raises(AttributeError, match="no attribute 'ClickModels'"):
        getattr(rm_rec, "Click" + "Models")


def test_everything_that_is_offered_shows_an_example() -> None:
    """Which runs: tests/test_doctests.py."""
    without = [name for name in rm_rec.__all__ if ">>> " not in (getattr(rm_rec, name).__doc__ or "")]
    assert without == ["__version__"]
