"""Run the job: python -m pipelines.memories."""

from pipelines.cli.job import run_job
from pipelines.memories import main

if __name__ == "__main__":
    run_job(main)
