"""Generate a synthetic log in which old events decide many clicks, and whose best possible AUC is known.

python -m pipelines.make_log --out data/synthetic.parquet
python -m pipelines.make_log --out data/large.parquet --log.users 20000 --log.events_per_user 1000
"""

from feature_store.datasets.settings import SyntheticConfig
from pipelines.cli import load_settings
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
    from pipelines.make_log.job import run  # late: what it imports takes seconds

    return run(settings)
