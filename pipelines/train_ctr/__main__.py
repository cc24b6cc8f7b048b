"""Run the job: python -m pipelines.train_ctr."""

from pipelines.cli.job import run_job
from pipelines.train_ctr import main

if __name__ == "__main__":
    run_job(main)
