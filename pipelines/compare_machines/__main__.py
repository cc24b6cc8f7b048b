"""Run the job: python -m pipelines.compare_machines."""

from pipelines.cli.job import run_job
from pipelines.compare_machines import main

if __name__ == "__main__":
    run_job(main)
