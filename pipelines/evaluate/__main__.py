"""Run the job: python -m pipelines.evaluate."""

from pipelines.cli.job import run_job
from pipelines.evaluate import main

if __name__ == "__main__":
    run_job(main)
