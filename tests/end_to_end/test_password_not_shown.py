"""The password in a Redis store's address: what jobs print, write and tell MLflow is without it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import build_memory
from pipelines.cli.job import GateRefused
from tests.end_to_end.promotions import Decisions, Gate, Register
from tests.support.redis_servers import redis_server

PASSWORD = "s3cret"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A server with a password: its host, port and database."""
    folder = tmp_path / "redis"
    folder.mkdir()
    with redis_server(folder, "--requirepass", PASSWORD) as port:
        yield f"127.0.0.1:{port}/0"


def test_a_build_names_the_store_without_its_password(
    server: str, good: Path, log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--model", str(good), "--memories", f"redis://:{PASSWORD}@{server}?name=x", "--log", str(log)]
    for said in ("events folded", f"redis://{server}?name=x: every file of {log} was consumed before"):
        assert build_memory.main([*argv, "--out", str(tmp_path / "out")]) == 0
        shown = capsys.readouterr()
        assert said in shown.out
        assert f"--memories redis://{server}?name=x" in shown.out
        assert PASSWORD not in shown.out + shown.err
    assert PASSWORD not in _written(tmp_path / "out")


def test_a_promotion_keeps_the_address_without_its_password(
    server: str, register: Register, gate: Gate, good: Path, decisions: Decisions, tmp_path: Path
) -> None:
    name = register(good, "candidate")
    with pytest.raises(GateRefused, match=rf"nothing at redis://{server}\?name=none, ") as caught:
        gate(name, "--memories", f"redis://:{PASSWORD}@{server}?name=none")
    assert PASSWORD not in str(caught.value)
    (run,) = decisions(name)
    assert run.data.params["memories"] == f"redis://{server}?name=none"
    assert PASSWORD not in str(run.to_dictionary())
    assert PASSWORD not in _written(tmp_path / "out")


def _written(folder: Path) -> str:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return "\n".join(path.read_text(errors="replace") for path in files)
