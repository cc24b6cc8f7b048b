"""The work of `pipelines.make_log`, imported once its settings are read."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from feature_store.datasets.settings import SyntheticConfig
from feature_store.datasets.synthetic import best_possible_auc, make_synthetic_log
from feature_store.files import replacing
from pipelines.cli.job import DONE, result_console
from pipelines.make_log import MakeLog


def run(settings: MakeLog) -> int:
    """Generate the log; return the exit code."""
    out = Path(settings.out)
    table = write_log(settings.log, out)
    console = result_console()
    console.print(f"{out}: {len(table):,} events of {settings.log.users:,} users")
    console.print(f"best possible AUC over all events: {best_possible_auc(table):.4f}")
    return DONE


def write_log(config: SyntheticConfig, out: Path) -> pa.Table:
    """Generate a log and write it; a killed job leaves no partial file at `out`."""
    table = make_synthetic_log(config)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as partial:
        pq.write_table(table, partial, compression="zstd")
    return table
