"""One small log's outcomes, made by hand."""

from dataclasses import replace

from pipelines.comparison.outcomes import LogOutcomes, Outcome, Seeds
from rm_rec.evaluation.report import Estimate


def seeds(*values: float) -> Seeds:
    return Seeds(values)


WINDOW = Outcome(
    candidate="window_only",
    learning_rate=0.003,
    state_bytes=0,
    seeds=(0, 1),
    best_epochs=(3, 4),
    validation=seeds(0.61, 0.63),
    test=seeds(0.60, 0.64),
    test_interval=(0.59, 0.66),
    gain=Estimate(0.0, 0.0, 0.0),
    grouped=seeds(0.55, 0.56),
    by_age={"0": seeds(0.70, 0.72), "3-4": seeds(0.5, 0.5), "17+": seeds(0.51, 0.52), "never": seeds(0.45, 0.47)},
    by_popularity={"0": seeds(0.66, 0.68), "10-99": seeds(0.61, 0.61)},
)
NTM = replace(
    WINDOW,
    candidate="ntm",
    learning_rate=0.006,
    state_bytes=2046,
    validation=seeds(0.71, 0.75),
    test=seeds(0.70, 0.72),
    test_interval=(0.68, 0.74),
    gain=Estimate(0.09, 0.05, 0.13),
    grouped=seeds(0.65, 0.67),
    by_age={"0": seeds(0.71, 0.73), "3-4": seeds(0.62, 0.64), "17+": seeds(0.58, 0.6), "never": seeds(0.44, 0.46)},
    by_popularity={"0": seeds(0.67, 0.69)},
)
REHEARSED = replace(
    NTM,
    candidate="ntm+rehearsal",
    validation=seeds(0.70, 0.77),
    test=seeds(0.73, 0.69),
    test_interval=(0.67, 0.75),
    gain=Estimate(0.09, 0.04, 0.12),
    grouped=None,
)
WORSE = replace(
    NTM,
    candidate="rum",
    validation=seeds(0.50, 0.52),
    test=seeds(0.51, 0.53),
    test_interval=(None, None),
    gain=Estimate(-0.1, -0.15, -0.05),
)
OUTCOMES = LogOutcomes(
    log="my_log",
    impressions=1234,
    users=56,
    known_age=True,
    rows_by_age={"0": 1000, "3-4": 50, "17+": 49, "never": 100},
    rows_by_popularity={"0": 1100, "1-9": 60, "10-99": 74},
    best_possible=0.81,
    outcomes=(WINDOW, NTM, REHEARSED, WORSE),
)
