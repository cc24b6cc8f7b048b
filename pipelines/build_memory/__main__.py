"""Run the job: python -m pipelines.build_memory."""

from pipelines.build_memory import main
from pipelines.cli.job import run_job

if __name__ == "__main__":
    run_job(main)
