"""Run the job: python -m pipelines.promote."""

from pipelines.cli.job import run_job
from pipelines.promote import main

if __name__ == "__main__":
    run_job(main)
