"""What a name costs: nobody waits for torch who does not use it."""

import subprocess
import sys

import pytest

import rm_rec


@pytest.mark.parametrize(
    "statement",
    [
        "import rm_rec.errors",
        "import pipelines.evaluate",
        "import pipelines.make_log",
        "from rm_rec import FeatureSpace, MemoryConfig, ModelConfig, RehearsalConfig",
    ],
)
def test_tables_and_settings_need_no_torch(statement: str) -> None:
    code = f"{statement}; import sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_name_is_there() -> None:
    for name in rm_rec.__all__:
        assert getattr(rm_rec, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'ClickModels'"):
        getattr(rm_rec, "Click" + "Models")
