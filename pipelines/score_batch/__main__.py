"""Run the job: python -m pipelines.score_batch."""

from pipelines.cli.job import run_job
from pipelines.score_batch import main

if __name__ == "__main__":
    run_job(main)
