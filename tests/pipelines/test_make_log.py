"""The job that makes a synthetic log: what it writes, what it says, and settings that contradict each other."""

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.errors import SettingsError
from pipelines.make_log import main

FEW = ("--log.users", "5", "--log.events_per_user", "20")


def test_it_says_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "log.parquet"
    assert main(["--out", str(out), *FEW]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{out}: {pq.read_metadata(out).num_rows:,} events of 5 users"
    assert said[1].startswith("best possible AUC over all events: 0.")
    assert [path.name for path in out.parent.iterdir()] == ["log.parquet"]
    before = out.read_bytes()
    main(["--out", str(out), *FEW])
    assert out.read_bytes() == before
    main(["--out", str(out), *FEW, "--log.seed", "1"])
    assert out.read_bytes() != before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--log.categories", "34"), "28 early and 6 recent interests need more than 34 categories; raise categories"),
        (("--log.items", "50"), "50 items leave some of 64 categories empty; raise items"),
        (("--log.users", "0"), "log.users = 0 .*must be greater than or equal to 1"),
    ],
)
def test_settings_that_cannot_be_made(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    with pytest.raises(SettingsError, match=says) as caught:
        main(["--out", str(tmp_path / "log.parquet"), *arguments])
    assert "\n" not in str(caught.value)


def test_a_folder_is_not_a_file_to_write(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipelines.make_log", "--out", str(tmp_path), *FEW]
    root = Path(__file__).parents[2]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert ended.returncode == 2
    assert ended.stderr == f"error: {tmp_path}: Is a directory; name a path that can be written\n"
