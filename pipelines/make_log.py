"""Generate a synthetic log in which old events decide many clicks, and whose best possible AUC is known.

python -m pipelines.make_log --out data/synthetic.parquet
python -m pipelines.make_log --out data/large.parquet --log.users 20000 --log.events_per_user 1000
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from feature_store.datasets.synthetic import SyntheticConfig, best_possible_auc, make_synthetic_log
from feature_store.files import replacing
from pipelines.cli import load_settings
from pipelines.cli.job import DONE, result_console, run_job
from rm_rec.config.base import Settings


class MakeLog(Settings):
    """What the log has, and where to write it."""

    log: SyntheticConfig = SyntheticConfig()
    out: str = "data/synthetic.parquet"
    """Parquet file to write."""


def main(argv: list[str]) -> int:
    """Run the job; see the module's docstring."""
    settings = load_settings(
        MakeLog,
        argv,
        prog="python -m pipelines.make_log",
        description="Generate a synthetic log in which old events decide many clicks.",
        examples=(
            "python -m pipelines.make_log --out data/synthetic.parquet",
            "python -m pipelines.make_log --out data/large.parquet --log.users 20000",
        ),
    )
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


if __name__ == "__main__":
    run_job(main)
