"""Train every model on every recipe and print the table of docs/results.md.

python benchmarks/results_table.py --data FOLDER --out runs/results [--jobs 2] [--only delicious_tags ...]
    [--optimizer.embedding_lr 0.003 ...]

FOLDER holds NAME.parquet for each recipe; the quickstart log is made. Each run is `python -m pipelines.train_ctr` with
one thread in a folder of its own: killed, it goes on where it was; finished, it is not run again. Test AUC of the epoch
that was best on validation; with several seeds, the mean and the spread (highest less lowest). The last line is JSON.
"""

import argparse
import json
import statistics
from typing import Any

from training_runs import RECIPES, TrainingRun, add_arguments, mean_and_spread, run_all

MODELS = ("din_50", "din_full", "window_only", "mean_pool", "rehearsal", "associative")
SEEDS = {
    "delicious_tags": 3,
    "wikipedia_edits": 3,
    "foursquare_nyc": 1,
    "movielens": 1,
    "assistments2017": 1,
    "quickstart": 1,
}


def cell(tests: list[dict[str, Any]]) -> str:
    """Write a test AUC: of one run with its bootstrap interval, of several with their spread."""
    if len(tests) == 1:
        return "{auc:.4f} ({auc_low:.4f} to {auc_high:.4f})".format(**tests[0])
    return mean_and_spread([test["auc"] for test in tests])


def main() -> None:
    """Run what is not finished yet, then print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, seeds=max(SEEDS.values()))
    parser.add_argument("--only", nargs="*", default=list(SEEDS), choices=list(SEEDS))
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    arguments, settings = parser.parse_known_args()  # what is not known here goes to every train_ctr
    # Seeds outermost, so that a first whole table is there early.
    runs = [
        TrainingRun(recipe, model, seed, ("--config", str(RECIPES / "models" / f"{model}.yaml"), *settings))
        for seed in range(arguments.seeds)
        for recipe in arguments.only
        for model in arguments.models
        if seed < SEEDS[recipe]
    ]
    metrics = run_all(runs, arguments.data, arguments.out, arguments.jobs)
    figures: dict[str, dict[str, dict[str, float]]] = {}
    print("\n| log | " + " | ".join(arguments.models) + " |\n|" + "---|" * (len(arguments.models) + 1))
    for recipe in arguments.only:
        cells = []
        for model in arguments.models:
            found = [value for run, value in metrics.items() if (run.recipe, run.name) == (recipe, model)]
            cells.append(cell([value["test"] for value in found]) if found else "failed")
            if found:
                figures.setdefault(recipe, {})[model] = {
                    split: round(statistics.mean(value[split]["auc"] for value in found), 5)
                    for split in ("test", "validation")
                }
        print(f"| {recipe} | " + " | ".join(cells) + " |")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
