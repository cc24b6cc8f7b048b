"""Training runs in parallel, each a `train_ctr` with one thread in its own process and folder.

Killed runs resume. A run that is finished, with the same settings on the same log, is not repeated. A folder of other
settings or another log is refused: delete it, or choose another.
"""

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, final

import mlflow

from feature_store.data_config import DataConfig
from feature_store.logs.preparation import log_fingerprint
from pipelines.cli import resolved
from pipelines.cli.job import run_job
from pipelines.comparison.names import former_names
from pipelines.runs import run_folder
from pipelines.runs.settings import TrackingConfig
from pipelines.train_ctr import TrainCtr
from pipelines.train_ctr.job import fingerprint_of, run

_LOG = "log.txt"


@final
class RunGrid:
    """A folder of training runs, with a subfolder for each, named like the run; one MLflow experiment."""

    def __init__(self, out: Path, tracking: TrackingConfig) -> None:
        self.out = out.resolve()
        self._tracking = tracking
        self._logs: dict[str, str] = {}  # fingerprints: that of a large log takes seconds

    def folder(self, name: str) -> Path:
        """Return the folder of a run; runs that were made under a candidate's former name stay where they are."""
        formers = (self.out / former for former in former_names(name))
        return next((folder for folder in formers if folder.exists()), self.out / name)

    def finished(self, runs: Mapping[str, TrainCtr]) -> dict[str, dict[str, Any]]:
        """Return the metrics of the runs that are finished."""
        all_metrics = {name: self._metrics(name, settings) for name, settings in runs.items()}
        return {name: metrics for name, metrics in all_metrics.items() if metrics is not None}

    def run(self, runs: Mapping[str, TrainCtr], jobs: int) -> dict[str, dict[str, Any]]:
        """Do the runs that are not finished, in order and `jobs` at a time; return the metrics of all finished runs."""
        due = {name: settings for name, settings in runs.items() if self._metrics(name, settings) is None}
        if due and jobs:
            self.out.mkdir(parents=True, exist_ok=True)
            # Created here: of two runs that both create it, one would fail or go to MLflow's default experiment.
            client = mlflow.MlflowClient(self._tracking.uri)
            if client.get_experiment_by_name(self._tracking.experiment) is None:
                client.create_experiment(self._tracking.experiment)
            # A run is forked from a process that has imported everything, which would take each run seconds.
            processes = multiprocessing.get_context("forkserver")
            processes.set_forkserver_preload([__name__])
            pool = ThreadPoolExecutor(jobs)
            try:
                for future in [pool.submit(self._run, name, settings, processes) for name, settings in due.items()]:
                    future.result()
            finally:  # Ctrl-C stops the current runs; waiting runs must not start
                pool.shutdown(cancel_futures=True)
        return self.finished(runs)

    def _run(self, name: str, settings: TrainCtr, processes: ForkServerContext) -> None:
        process = processes.Process(target=_train, args=(resolved(self._here(name, settings)),))
        process.start()
        process.join()
        # The exit code is not used: of two threads that wait for it at once, one may not get it.
        finished = self._metrics(name, settings) is not None
        result = "done" if finished else f"FAILED, see {self.folder(name) / _LOG}"
        sys.stderr.write(f"{name}: {result}\n")

    def _metrics(self, name: str, settings: TrainCtr) -> dict[str, Any] | None:
        here = self._here(name, settings)
        metrics = run_folder.result_of(self.folder(name), resolved(here))
        if metrics is None or here.start_from is not None:
            return metrics
        return metrics if metrics["fingerprint"] == fingerprint_of(here, self._log(here.data)) else None

    def _log(self, data: DataConfig) -> str:
        key = data.model_dump_json()
        if key not in self._logs:
            self._logs[key] = log_fingerprint(data)
        return self._logs[key]

    def _here(self, name: str, settings: TrainCtr) -> TrainCtr:
        one_thread = settings.training.model_copy(update={"threads": 1})
        here = {"out": str(self.folder(name)), "tracking": self._tracking, "training": one_thread}
        return settings.model_copy(update=here)


def _train(settings: Mapping[str, Any]) -> None:
    """Do one run in this process, which ends when its parent does: else the folder would stay locked."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_die_with, args=(parent.sentinel,), daemon=True).start()
    folder = Path(settings["out"])
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOG).open("a") as text:
        for stream in (1, 2):
            os.dup2(text.fileno(), stream)
    sys.argv = ["train_ctr", "--out", str(folder)]  # where a traceback is written
    run_job(lambda _: run(TrainCtr.model_validate(settings)))


def _die_with(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os.kill(os.getpid(), signal.SIGKILL)
