"""Run the job: python -m pipelines.retention."""

from pipelines.cli.job import run_job
from pipelines.retention import main

if __name__ == "__main__":
    run_job(main)
