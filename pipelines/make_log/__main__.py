"""Run the job: python -m pipelines.make_log."""

from pipelines.cli.job import run_job
from pipelines.make_log import main

if __name__ == "__main__":
    run_job(main)
