"""What each part of rehearsal gives: train every variant on every log and print the tables of docs/results.md.

python benchmarks/rehearsal_ablation.py --data FOLDER --out runs/ablation [--jobs 2] [--only delicious_tags ...]
    [--variants none both ...] [--seeds 3] [--training.epochs 12 ...]

FOLDER holds NAME.parquet for each recipe; the synthetic log is made. What is not known here goes to every train_ctr.
Killed, it goes on where it was. Test and validation AUC of the epoch that was best on validation: mean of the seeds
± half of their range, and the difference from the same model without rehearsal, seed by seed. The last line is JSON.

none, recollection, familiarity, both     parts of the loss, fragments drawn uniformly
both_teacher, both_student                both parts, fragments drawn by the history sampler
recollection_teacher, _student            the same with recollection alone
gated_none, gated_both                    the same of slot-to-item attention with a gated update
din_50, din_full and their _masked        attention over raw events, without and with masked events predicted from their
                                          own fragment: the same self-supervised help, and no memory
"""

import argparse
import json
import statistics
from pathlib import Path

from feature_store.datasets.settings import SyntheticConfig
from pipelines.cli import load_settings
from pipelines.comparison.candidates import RECIPES, SYNTHETIC, log_file
from pipelines.comparison.run_grid import RunGrid
from pipelines.make_log.job import write_log
from pipelines.runs.settings import TrackingConfig
from pipelines.train_ctr import TrainCtr

LOGS = ("delicious_tags", "quickstart", "wikipedia_edits", "foursquare_nyc")
WEIGHTS = ("--rehearsal.recollection_weight", "--rehearsal.familiarity_weight")


def rehearsal(recollection: str, familiarity: str, sampler: str = "uniform") -> tuple[str, ...]:
    """Set the parts of rehearsal."""
    return (*(WEIGHTS[0], recollection, WEIGHTS[1], familiarity), "--rehearsal.sampler.kind", sampler)


def model(name: str) -> tuple[str, ...]:
    """Lay a baseline's recipe over the log's."""
    return ("--config", str(RECIPES / "models" / f"{name}.yaml"))


OFF = ("--rehearsal", "null")
RECOLLECTION, FAMILIARITY = "0.2", "0.1"
VARIANTS: dict[str, tuple[str, ...]] = {
    "none": OFF,
    "recollection": rehearsal(RECOLLECTION, "0"),
    "familiarity": rehearsal("0", FAMILIARITY),
    "both": rehearsal(RECOLLECTION, FAMILIARITY),
    "both_teacher": rehearsal(RECOLLECTION, FAMILIARITY, "teacher"),
    "both_student": rehearsal(RECOLLECTION, FAMILIARITY, "student"),
    "recollection_teacher": rehearsal(RECOLLECTION, "0", "teacher"),
    "recollection_student": rehearsal(RECOLLECTION, "0", "student"),
    "gated_none": ("--model.machine.kind", "slot_gru", *OFF),
    "gated_both": ("--model.machine.kind", "slot_gru", *rehearsal(RECOLLECTION, FAMILIARITY)),
    "din_50": (*model("din_50"), *OFF),
    "din_50_masked": (*model("din_50"), *rehearsal(RECOLLECTION, "0")),
    "din_full": (*model("din_full"), *OFF),
    "din_full_masked": (*model("din_full"), *rehearsal(RECOLLECTION, "0")),
}
BASES = {"gated_both": "gated_none", "din_50_masked": "din_50", "din_full_masked": "din_full"}
# Baselines and the other machine where most can be learnt; the four parts and three samplers everywhere.
ON_ALL_LOGS = ("none", "recollection", "familiarity", "both", "both_teacher", "both_student")


def training(log: str, path: Path, variant: str, seed: int, settings: list[str]) -> TrainCtr:
    """Return one run: the seed is of weights, batches and negatives."""
    own = ["--data.log", str(path), "--data.seed", str(seed), "--training.seed", str(seed)]
    arguments = ["--config", str(RECIPES / f"{log}.yaml"), *VARIANTS[variant], *settings, *own]
    return load_settings(TrainCtr, arguments, prog="train_ctr", description="")


def mean_and_spread(values: list[float]) -> str:
    """Write the mean of several seeds, plus and minus half of their range; of one seed, its value."""
    if len(values) == 1:
        return f"{values[0]:.4f}"
    return f"{statistics.mean(values):.4f} ± {(max(values) - min(values)) / 2:.4f}"


def main() -> None:
    """Run what is not finished yet, then print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of NAME.parquet for each recipe")
    parser.add_argument("--out", type=Path, required=True, help="folder of all runs")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; 0 only reports those that are finished")
    parser.add_argument("--seeds", type=int, default=3, help="at most this many")
    parser.add_argument("--only", nargs="*", default=list(LOGS), choices=list(LOGS))
    parser.add_argument("--variants", nargs="*", choices=list(VARIANTS), help="all on the first log, six on the others")
    arguments, settings = parser.parse_known_args()
    variants = {
        log: arguments.variants or (list(VARIANTS) if log == LOGS[0] else ON_ALL_LOGS) for log in arguments.only
    }
    paths = {log: log_file(log, arguments.data, arguments.out) for log in arguments.only}
    made = arguments.out / SYNTHETIC
    if made in paths.values() and not made.exists():
        write_log(SyntheticConfig(), made)
    # Seeds outermost, so that a first whole table is there early.
    runs = {
        (log, name, seed): training(log, paths[log], name, seed, settings)
        for seed in range(arguments.seeds)
        for log in arguments.only
        for name in variants[log]
    }
    tracking = TrackingConfig(uri=f"sqlite:///{arguments.out.resolve()}/mlflow.db", experiment=arguments.out.name)
    folders = {key: "{}/{}-{}".format(*key) for key in runs}
    found = RunGrid(arguments.out, tracking).run({folders[key]: run for key, run in runs.items()}, arguments.jobs)
    auc = {
        key: {split: found[folder][split]["auc"] for split in ("test", "validation")}
        for key, folder in folders.items()
        if folder in found
    }
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for log in arguments.only:
        print(
            f"\n{log}\n\n| variant | seeds | test AUC | gain, test | validation AUC | gain, validation |\n"
            + "|---" * 6
            + "|"
        )
        for name in variants[log]:
            seeds = [seed for seed in range(arguments.seeds) if (log, name, seed) in auc]
            if not seeds:
                print(f"| {name} | 0 | not finished | | | |")
                continue
            base = BASES.get(name, "none")
            cells = [name, str(len(seeds))]
            figures.setdefault(log, {})[name] = {}
            for split in ("test", "validation"):
                values = [auc[log, name, seed][split] for seed in seeds]
                gains = [
                    auc[log, name, seed][split] - auc[log, base, seed][split]
                    for seed in seeds
                    if (log, base, seed) in auc
                ]
                cells += [mean_and_spread(values), mean_and_spread(gains) if gains and any(gains) else ""]
                figures[log][name][split] = round(statistics.mean(values), 5)
            print("| " + " | ".join(cells) + " |")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
