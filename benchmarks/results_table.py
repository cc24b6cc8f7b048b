"""Train every model on every recipe and print the table of docs/results.md.

python benchmarks/results_table.py --data FOLDER [--out runs/results] [--jobs 2] [--only delicious_tags ...]
    [--optimizer.embedding_lr 0.003 ...]

FOLDER holds NAME.parquet for each recipe; the quickstart log is made. Each run is `python -m pipelines.train_ctr` with
one thread in a folder of its own: killed, it goes on where it was; finished, it is not run again. Test AUC of the epoch
that was best on validation; with several seeds, the mean and the spread (highest less lowest). The last line is JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parent.parent
MODELS = ("din_50", "din_full", "window_only", "mean_pool", "rehearsal")
SEEDS = {
    "delicious_tags": 3,
    "wikipedia_edits": 3,
    "foursquare_nyc": 1,
    "movielens": 1,
    "assistments2017": 1,
    "quickstart": 1,
}


def train(recipe: str, model: str, seed: int, log: Path, out: Path, settings: list[str]) -> dict[str, float] | None:
    """Run one training, unless it is finished; return its test metrics, None if it failed (see its log.txt)."""
    folder = out / recipe / f"{model}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    recipes = ROOT / "pipelines" / "recipes"
    command = [sys.executable, "-m", "pipelines.train_ctr", "--config", str(recipes / f"{recipe}.yaml")]
    command += ["--config", str(recipes / "models" / f"{model}.yaml"), "--data.log", str(log), "--out", str(folder)]
    command += ["--data.seed", str(seed), "--training.seed", str(seed), "--training.threads", "1"]
    command += ["--tracking.uri", f"sqlite:///{out}/mlflow.db", "--tracking.experiment", f"results-{recipe}"]
    command += ["--tracking.register_as", "null", *settings]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (folder / "log.txt").open("a") as text:
        code = subprocess.run(command, stdout=text, stderr=subprocess.STDOUT, env=environment, check=False).returncode
    print(
        f"{recipe} {model} seed {seed}: " + ("done" if code == 0 else f"FAILED, see {folder / 'log.txt'}"), flush=True
    )
    if code:
        return None
    metrics = json.loads((folder / "metrics.json").read_text())
    return {"auc": metrics["test"]["auc"], "validation_auc": metrics["validation"]["auc"]} | {
        name: metrics["test"][name] for name in ("auc_low", "auc_high")
    }


def cell(runs: list[dict[str, float]]) -> str:
    """Write a test AUC: of one run with its bootstrap interval, of several with their spread."""
    aucs = [run["auc"] for run in runs]
    if len(runs) == 1:
        return f"{aucs[0]:.4f} ({runs[0]['auc_low']:.4f} to {runs[0]['auc_high']:.4f})"
    return f"{statistics.mean(aucs):.4f} ± {(max(aucs) - min(aucs)) / 2:.4f}"


def main() -> None:
    """Run what is not finished yet, then print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/results"))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=list(SEEDS), choices=list(SEEDS))
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--seeds", type=int, default=max(SEEDS.values()), help="at most this many")
    arguments, settings = parser.parse_known_args()  # what is not known here goes to every train_ctr
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if "quickstart" in arguments.only and not (out / "synthetic.parquet").exists():
        make = [sys.executable, "-m", "pipelines.make_log", "--out", str(out / "synthetic.parquet")]
        subprocess.run(make, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    # Seeds outermost, so that a first whole table is there early.
    tasks = [
        (recipe, model, seed)
        for seed in range(arguments.seeds)
        for recipe in arguments.only
        for model in arguments.models
        if seed < SEEDS[recipe]
    ]

    def run(task: tuple[str, str, int]) -> dict[str, float] | None:
        recipe = task[0]
        log = out / "synthetic.parquet" if recipe == "quickstart" else arguments.data / f"{recipe}.parquet"
        return train(*task, log, out, settings)

    with ThreadPoolExecutor(arguments.jobs) as pool:
        results = dict(zip(tasks, pool.map(run, tasks), strict=True))
    figures: dict[str, dict[str, dict[str, float]]] = {}
    print("\n| log | " + " | ".join(arguments.models) + " |\n|" + "---|" * (len(arguments.models) + 1))
    for recipe in arguments.only:
        cells = []
        for model in arguments.models:
            runs = [found for task, found in results.items() if task[:2] == (recipe, model) and found is not None]
            cells.append(cell(runs) if runs else "failed")
            if runs:
                figures.setdefault(recipe, {})[model] = {
                    split: round(statistics.mean(run[key] for run in runs), 5)
                    for split, key in (("test", "auc"), ("validation", "validation_auc"))
                }
        print(f"| {recipe} | " + " | ".join(cells) + " |")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
