"""A registered model behind MLflow's own server, and in Spark: the answers of score_batch, and the night's news."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.support.small_runs import environment, run_forked

MODEL = "models:/to-evaluate@candidate"


def outside(tracking_uri: str, **more: str) -> dict[str, str]:
    """Return what a server's process sees: MLflow and what it needs, and no checkout of this project."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # MLflow calls `uvicorn` by its name
    quiet = {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    found = environment() | {"PATH": path, "MLFLOW_TRACKING_URI": tracking_uri} | quiet | more
    del found["PYTHONPATH"]
    return found


@dataclass
class Answer:
    """What the server said."""

    status: int
    body: dict[str, Any]

    @property
    def predictions(self) -> np.ndarray:
        assert self.status == 200, self.body
        return np.array([row["prediction"] for row in self.body["predictions"]])


@dataclass(frozen=True)
class Server:
    """A scoring server of MLflow's on the loopback."""

    port: int

    def ask(self, body: str | dict[str, Any], kind: str = "application/json") -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        text = body if isinstance(body, str) else json.dumps(body)
        connection.request("POST", "/invocations", text, {"Content-Type": kind})
        with connection.getresponse() as response:
            return Answer(response.status, json.loads(response.read()))

    def score(self, rows: pa.Table) -> np.ndarray:
        data = [list(row.values()) for row in rows.to_pylist()]
        return self.ask({"dataframe_split": {"columns": rows.column_names, "data": data}}).predictions

    def is_up(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/ping")
            return connection.getresponse().status == 200
        except OSError:
            return False


@pytest.fixture(scope="module")
def nights(log: Path, folder: Path) -> list[Path]:
    """Cut the log in two."""
    events = pq.read_table(log)
    middle = int(pc.quantile(events["timestamp"], 0.7)[0].as_py())
    earlier = pc.less(events["timestamp"], middle)
    files = [folder / "nights" / f"{name}.parquet" for name in ("first", "second")]
    files[0].parent.mkdir()
    for file, chosen in zip(files, (earlier, pc.invert(earlier)), strict=True):
        pq.write_table(events.filter(chosen), file)
    return files


@pytest.fixture(scope="module")
def candidates(log: Path, folder: Path) -> Path:
    """Write users, two of them strangers, and items, one of them unknown, after all events."""
    events = pq.read_table(log)
    users = [*events["user_id"].unique().to_pylist()[:10], 10**15, 10**15 + 1]
    rows = [(user, item) for user in users for item in (1, 2, 3, 10**12)]
    moment = pc.max(events["timestamp"]).as_py() + 100
    columns = {"user_id": [user for user, _ in rows], "item_id": [item for _, item in rows]}
    path = folder / "nights" / "candidates.parquet"
    pq.write_table(pa.table(columns | {"timestamp": [moment + place for place in range(len(rows))]}), path)
    return path


def build(folder: Path, model: Path, night: Path) -> None:
    """Build a night's memories by the job, in a process of its own."""
    ended = run_forked(
        folder,
        *("pipelines.build_memory", "--model", model, "--memories", "served-memories", "--log", night),
        *("--out", folder / "building", "--num_buckets", 4),
    )
    assert ended.returncode == 0, ended.stderr


def batch_scores(folder: Path, model: Path, candidates: Path, name: str) -> np.ndarray:
    """Score candidates by the job."""
    out = folder / "nights" / f"{name}.parquet"
    job = ("pipelines.score_batch", "--model", model, "--memories", "served-memories", "--candidates", candidates)
    ended = run_forked(folder, *job, "--out", out)
    assert ended.returncode == 0, ended.stderr
    scores: np.ndarray = pq.read_table(out)["prediction"].to_numpy()
    return scores


@pytest.fixture(scope="module")
def server(folder: Path, trained: Path, nights: list[Path], candidates: Path, tracking_uri: str) -> Iterator[Server]:
    """Serve the registered model on memories of the first night."""
    build(folder, trained, nights[0])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", MODEL, "--env-manager", "local"]
    with (folder / "server.log").open("w") as said:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            cwd=folder,
            env=outside(tracking_uri, RM_REC_MEMORIES="served-memories"),
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    found = Server(port)
    try:
        for _ in range(600):
            if found.is_up():
                break
            assert process.poll() is None, (folder / "server.log").read_text()
            time.sleep(0.2)
        else:
            pytest.fail((folder / "server.log").read_text())
        yield found
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def test_it_answers_as_score_batch_and_reads_the_next_night(
    server: Server, folder: Path, trained: Path, nights: list[Path], candidates: Path
) -> None:
    rows = pq.read_table(candidates)
    before = server.score(rows)
    np.testing.assert_allclose(before, batch_scores(folder, trained, candidates, "before"), rtol=0, atol=1e-6)
    timeless = server.score(rows.drop_columns("timestamp"))
    build(folder, trained, nights[1])
    after = server.score(rows)
    np.testing.assert_allclose(after, batch_scores(folder, trained, candidates, "after"), rtol=0, atol=1e-6)
    acted = np.isin(rows["user_id"].to_numpy(), pq.read_table(nights[1])["user_id"].to_numpy())
    assert 0 < acted.sum() < len(acted)
    assert (np.abs(after - before)[acted] > 1e-6).all()
    np.testing.assert_allclose(after[~acted], before[~acted], rtol=0, atol=1e-9)
    assert np.abs(server.score(rows.drop_columns("timestamp")) - timeless)[acted].max() > 1e-6


def test_every_way_to_ask(server: Server) -> None:
    records = [{"user_id": 10**15, "item_id": 3}, {"user_id": 10**15, "item_id": 4}]
    expected = server.ask({"dataframe_records": records}).predictions
    assert len(set(expected)) == 2
    inputs = {"user_id": [10**15] * 2, "item_id": [3, 4]}
    assert np.array_equal(server.ask({"inputs": inputs}).predictions, expected)
    lines = "user_id,item_id\n1000000000000000,3\n1000000000000000,4\n"
    assert np.array_equal(server.ask(lines, "text/csv").predictions, expected)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"user_id": 1}, "Model is missing inputs ['item_id']."),
        ({"item_id": 1}, "Model is missing inputs ['user_id']."),
        ({"user_id": 1, "item_id": "x"}, "Failed to convert column item_id to type 'int64'."),
        ({"user_id": None, "item_id": 1}, "Failed to convert column user_id to type 'int64'."),
        ({"user_id": 1, "item_id": 1, "timestamp": None}, "Failed to convert column timestamp to type 'int64'."),
        ({"user_id": 1, "item_id": 1, "timestamp": "soon"}, "Failed to convert column timestamp to type 'int64'."),
    ],
)
def test_a_malformed_request_is_told_its_column(server: Server, row: dict[str, Any], said: str) -> None:
    answer = server.ask({"dataframe_records": [row]})
    assert answer.status == 400
    assert said in answer.body["message"]
    assert "stack_trace" not in answer.body
    assert "Traceback" not in answer.body["message"]


def test_a_request_that_would_look_ahead_is_one_line(server: Server, candidates: Path) -> None:
    user = pq.read_table(candidates)["user_id"][0].as_py()
    answer = server.ask({"dataframe_records": [{"user_id": user, "item_id": 1, "timestamp": 5}]})
    assert answer.status == 400
    assert answer.body["message"].startswith(f"lmdb:served-memories: the memory of user {user} has an event of ")
    assert "\n" not in answer.body["message"]
    assert "stack_trace" not in answer.body
    assert server.ask("nonsense").status == 400


_SPARK = """
import sys
import mlflow
from pyspark.sql import SparkSession
from pyspark.sql.functions import struct

model, memories, candidates, out = sys.argv[1:]
spark = (
    SparkSession.builder.master("local[2]")
    .config("spark.driver.host", "127.0.0.1")
    .config("spark.ui.enabled", "false")
    .config("spark.sql.session.timeZone", "UTC")
    .getOrCreate()
)
click = mlflow.pyfunc.spark_udf(spark, model, env_manager="local", model_config={"memories": memories})
rows = spark.read.parquet(candidates).repartition(2)
scored = rows.withColumn("prediction", click(struct("user_id", "item_id", "timestamp")))
scored.write.parquet(out)
spark.stop()
"""


@pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java, 17 or newer, and there is none here")
def test_spark_gives_the_scores_of_score_batch(
    server: Server, folder: Path, trained: Path, candidates: Path, tracking_uri: str
) -> None:
    pytest.importorskip("pyspark", reason="the package pyspark is not installed: install `rm-rec[spark]`")
    script, out = folder / "spark.py", folder / "spark-scores"
    script.write_text(_SPARK)
    spark = {"SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable}
    ended = subprocess.run(
        [sys.executable, str(script), MODEL, str(folder / "served-memories"), str(candidates), str(out)],
        cwd=folder,
        env=outside(tracking_uri, **spark),
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    found = pq.read_table(out).sort_by([("timestamp", "ascending")])
    expected = batch_scores(folder, trained, candidates, "beside-spark")
    assert found["item_id"].equals(pq.read_table(candidates)["item_id"])
    np.testing.assert_allclose(found["prediction"].to_numpy(), expected, rtol=0, atol=1e-6)
