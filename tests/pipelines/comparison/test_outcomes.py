"""What is reported of a log is what one counts by hand on sixteen impressions."""

import itertools
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_store.data_config import SPLITS
from pipelines.comparison.outcomes import FinishedRun, LogOutcomes, Seeds, measure_log
from pipelines.errors import RunError
from pipelines.train_ctr import TrainCtr
from pipelines.training.data import TEST, LogData
from rm_rec.evaluation.report import bootstrap, interval

# Ten events a user: four train, two validate, four are tested; segments are of two events.
USERS = {"u1": "aaabccabcd", "u2": "baaaccabcd", "u3": "baaaccabcd", "u4": "aaabccabcd"}
CLICKED = {"u1": "ab", "u2": "ac", "u3": "abd", "u4": "a"}
SCORES = {
    "u1a": 0.90,
    "u1b": 0.80,
    "u1c": 0.10,
    "u1d": 0.20,
    "u2a": 0.70,
    "u2b": 0.60,
    "u2c": 0.30,
    "u2d": 0.40,
    "u3a": 0.50,
    "u3b": 0.55,
    "u3c": 0.35,
    "u3d": 0.15,
    "u4a": 0.85,
    "u4b": 0.25,
    "u4c": 0.45,
    "u4d": 0.05,
}
AUC = 52 / 64  # of the clicks, four outrank all eight non-clicks, two seven, one four, one two
EVENTS_AGO = {"a": 1, "b": 6, "c": 0, "d": 1}  # where the log says what decides a click
Change = Callable[[pa.Table], pa.Table]


def made_log(*, says_what_decides: bool) -> pa.Table:
    rows = []
    for user, items in USERS.items():
        for place, item in enumerate(items):
            clicked = item in CLICKED[user] if place >= 6 else place % 2 == 0
            truth = 0.95 if (user, place) == ("u1", 9) else 0.9 if clicked else 0.1
            row: dict[str, Any] = {"user_id": user, "item_id": item, "timestamp": place, "clicked": int(clicked)}
            known = {"deciding_age": EVENTS_AGO[item] if place >= 6 else 0, "true_probability": truth}
            rows.append(row | (known if says_what_decides else {}))
    return pa.Table.from_pylist(rows)


class Runs:
    """Makes finished runs of a log in folders of their own."""

    def __init__(self, folder: Path, *, says_what_decides: bool) -> None:
        self.folder, self.numbers = folder, itertools.count()
        carry = ["deciding_age", "true_probability"] if says_what_decides else []
        pq.write_table(made_log(says_what_decides=says_what_decides), folder / "log.parquet")
        self.settings: dict[str, Any] = {
            "data": {
                "log": str(folder / "log.parquet"),
                "impressions": {"kind": "label", "column": "clicked", "carry": carry},
                "split": {"kind": "position", "validation": 0.2, "test": 0.4},
            },
            "model": {"segment_length": 2, "machine": {"kind": "none"}},
        }
        config = TrainCtr.model_validate(self.settings).data
        self.data = LogData.prepare(config, folder / "prepared", notify=lambda line: None)

    def run(
        self,
        name: str,
        seed: int = 0,
        scores: Mapping[str, float] = SCORES,
        change: Change | None = None,
        grouped: float | None = 0.75,
        **more: Any,
    ) -> FinishedRun:
        settings = TrainCtr.model_validate(self.settings | {"training": {"seed": seed}} | more)
        folder = self.folder / f"{name}-{seed}-{next(self.numbers)}"
        shutil.copytree(self.folder / "prepared", folder / "prepared")
        parts = [self._predictions(split, scores) for split in range(len(SPLITS))]
        whole = pa.concat_tables(parts)
        pq.write_table(whole if change is None else change(whole), folder / "predictions.parquet")
        metrics = {
            "validation": {"auc": 0.6 + 0.1 * seed},
            "test": {"auc": 0.123, "grouped_auc": grouped},
            "best_epoch": 3 + seed,
        }
        return FinishedRun(settings, metrics, folder)

    def _predictions(self, split: int, scores: Mapping[str, float]) -> pa.Table:
        parts = []
        for sequences in self.data.buckets():
            rows = np.flatnonzero(sequences.split == split)
            owner = np.searchsorted(sequences.impression_offsets, rows, side="right") - 1
            users, items = sequences.users.take(pa.array(owner)), sequences.item.take(pa.array(rows))
            keys = [f"{user}{item}" for user, item in zip(users.to_pylist(), items.to_pylist(), strict=True)]
            columns = {
                "user_id": users,
                "item_id": items,
                "timestamp": sequences.impression_time[rows],
                "split": pa.repeat(SPLITS[split], len(rows)),
                "label": sequences.label[rows],
                "history_length": sequences.num_earlier[rows],
                # What is not tested is predicted wrongly.
                "prediction": [scores[key] if split == TEST else 0.5 for key in keys],
            }
            parts.append(pa.table(columns | {name: values[rows] for name, values in sequences.carried.items()}))
        return pa.concat_tables(parts)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"), says_what_decides=False)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("known"), says_what_decides=True)


def measured(candidates: Mapping[str, Sequence[FinishedRun]], resamples: int = 0) -> LogOutcomes:
    return measure_log("the-log", candidates, resamples)


def means(found: Mapping[str, Seeds]) -> dict[str, float]:
    return {name: seeds.mean for name, seeds in found.items()}


def turned(scores: Mapping[str, float]) -> dict[str, float]:
    return {name: 1 - value for name, value in scores.items()}


def test_auc_of_the_test_split_and_of_each_seed(runs: Runs) -> None:
    pair = [runs.run("a", 0), runs.run("a", 1, turned(SCORES))]
    found = measured({"a": pair})
    (outcome,) = found.outcomes
    assert (found.log, found.impressions, found.users, found.best_possible) == ("the-log", 16, 4, None)
    assert outcome.test.values == pytest.approx((AUC, 1 - AUC))
    assert outcome.test.mean == pytest.approx(0.5)
    assert outcome.test.spread == pytest.approx(AUC - 0.5)
    assert (outcome.seeds, outcome.best_epochs) == ((0, 1), (3, 4))
    assert outcome.validation.values == (0.6, 0.7)
    assert outcome.grouped == Seeds((0.75, 0.75))
    assert outcome.learning_rate == 0.003


def test_a_spread_is_half_of_the_range() -> None:
    seeds = Seeds((0.5, 0.8, 0.6))
    assert (seeds.mean, seeds.spread) == (pytest.approx(1.9 / 3), pytest.approx(0.15))
    assert Seeds((0.7,)).spread == 0


def test_a_states_bytes_are_its_machines(runs: Runs) -> None:
    model = {"segment_length": 2, "token_dim": 8, "machine": {"kind": "associative", "num_slots": 3, "slot_dim": 8}}
    found = measured({"none": [runs.run("none")], "some": [runs.run("some", model=model)]})
    assert [outcome.state_bytes for outcome in found.outcomes] == [0, 3 * (8 + 1) * 2]


def test_by_popularity_counts_training_events_alone(runs: Runs) -> None:
    found = measured({"a": [runs.run("a")]})
    # Twelve training events are on a, four on b; c is in validation and d in test only.
    assert found.rows_by_popularity == {"0": 8, "1-9": 4, "10-99": 4}
    # All a were clicked: there is no AUC among them.
    assert means(found.outcomes[0].by_popularity) == pytest.approx({"0": 5 / 12, "1-9": 3 / 4})


def test_by_age_of_the_last_event_on_the_item(runs: Runs) -> None:
    found = measured({"a": [runs.run("a")]})
    assert not found.known_age
    assert found.rows_by_age == {"2": 6, "3-4": 1, "never": 1}
    assert means(found.outcomes[0].by_age) == pytest.approx({"2": 43 / 48, "3-4": 7 / 8, "never": 2 / 8})


def test_by_age_of_what_decides(known: Runs) -> None:
    found = measured({"a": [known.run("a", 0), known.run("a", 1, turned(SCORES))]})
    assert found.known_age
    assert found.rows_by_age == {"0": 4, "1": 4, "3-4": 4, "never": 4}
    by_age = found.outcomes[0].by_age
    assert {name: seeds.values for name, seeds in by_age.items()} == {
        "0": pytest.approx((1 / 3, 2 / 3)),
        "3-4": pytest.approx((3 / 4, 1 / 4)),
        "never": pytest.approx((1 / 3, 2 / 3)),
    }


def test_the_best_possible_is_that_of_the_true_probabilities(known: Runs) -> None:
    assert measured({"a": [known.run("a")]}).best_possible == pytest.approx(56 / 64)


def test_intervals_are_of_the_seeds_mean_over_users(runs: Runs) -> None:
    pairs = {name: [runs.run(name, 0, scores), runs.run(name, 1)] for name, scores in (("a", SCORES), ("b", OTHER))}
    found = measured(pairs, resamples=40)
    drawn = {name: np.mean([draws(run) for run in pair], axis=0) for name, pair in pairs.items()}
    first, second = found.outcomes
    assert first.test_interval == interval(drawn["a"], 0.0)
    assert second.test_interval == interval(drawn["b"], 0.0)
    assert second.gain.value == pytest.approx(second.test.mean - first.test.mean)
    assert (second.gain.low, second.gain.high) == interval(drawn["b"] - drawn["a"], 0.0)
    low, high = first.test_interval
    assert low is not None
    assert high is not None
    assert low < first.test.mean < high


OTHER = SCORES | {"u1a": 0.01, "u4d": 0.95}


def draws(run: FinishedRun) -> np.ndarray:
    table = pq.read_table(run.folder / "predictions.parquet", filters=[("split", "=", "test")])
    _, users = np.unique(table["user_id"].to_pylist(), return_inverse=True)
    # Users are drawn by their order of first appearance.
    places = [table["user_id"].to_pylist().index(user) for user in sorted(set(table["user_id"].to_pylist()))]
    codes = np.argsort(np.argsort(places))[users]
    return bootstrap(table["label"].to_numpy(), table["prediction"].to_numpy(), codes, resamples=40, seed=0)["auc"]


def test_the_same_predictions_gain_nothing_for_sure(runs: Runs) -> None:
    found = measured({"a": [runs.run("a", 0)], "b": [runs.run("b", 0)], "c": [runs.run("c", 0, OTHER)]}, resamples=30)
    first, same, other = (outcome.gain for outcome in found.outcomes)
    assert (first.value, first.low, first.high) == (0, 0, 0)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert other.value is not None
    assert other.value < 0


def test_without_draws_there_is_no_interval(runs: Runs) -> None:
    found = measured({"a": [runs.run("a")], "b": [runs.run("b", 0, OTHER)]})
    assert found.outcomes[0].test_interval == (None, None)
    assert (found.outcomes[1].gain.low, found.outcomes[1].gain.high) == (None, None)
    assert found.outcomes[1].gain.value is not None


def test_candidates_may_have_different_seeds(runs: Runs) -> None:
    found = measured({"a": [runs.run("a", 0), runs.run("a", 2)], "b": [runs.run("b", 2)]}, resamples=20)
    assert [outcome.seeds for outcome in found.outcomes] == [(0, 2), (2,)]
    assert (found.outcomes[1].gain.value, found.outcomes[1].gain.low) == (0, 0)


def test_users_of_one_class_have_no_auc_inside_them(runs: Runs) -> None:
    found = measured({"a": [runs.run("a", 0, grouped=None), runs.run("a", 1, grouped=None)]})
    assert found.outcomes[0].grouped is None


def as_it_is(table: pa.Table) -> pa.Table:
    return table


def without_a_row(table: pa.Table) -> pa.Table:
    return table.slice(0, table.num_rows - 1)


def with_another_item(table: pa.Table) -> pa.Table:
    items = table["item_id"].to_pylist()
    return table.set_column(table.column_names.index("item_id"), "item_id", [[*items[:-1], "zzz"]])


def with_a_label_turned(table: pa.Table) -> pa.Table:
    labels = table["label"].to_numpy().copy()
    labels[-1] = 1 - labels[-1]
    return table.set_column(table.column_names.index("label"), "label", [labels])


def users_backwards(table: pa.Table) -> pa.Table:
    _, users = np.unique(table["user_id"].to_pylist(), return_inverse=True)
    return table.take(pa.array(np.argsort(-users, kind="stable")))


def the_other_way_round(table: pa.Table) -> pa.Table:
    return table.take(pa.array(range(table.num_rows))[::-1])


@pytest.mark.parametrize(
    ("of_first", "change", "says"),
    [
        (as_it_is, without_a_row, "they have 16 and 15 rows"),
        (as_it_is, with_another_item, "they differ in 'item_id'"),
        (as_it_is, with_a_label_turned, "they differ in 'label'"),
        (users_backwards, as_it_is, "its test impressions are in another order"),
    ],
)
def test_other_impressions_are_refused(runs: Runs, of_first: Change, change: Change, says: str) -> None:
    other = runs.run("b", change=change)
    with pytest.raises(RunError) as caught:
        measured({"a": [runs.run("a", change=of_first)], "b": [other]})
    assert str(caught.value).startswith(f"{other.folder}: its test impressions ")
    assert says in str(caught.value)
    assert str(caught.value).endswith("delete the folder")
    assert "\n" not in str(caught.value)


def test_rows_are_told_by_what_they_are_and_not_by_their_place(runs: Runs) -> None:
    first, second = measured({"a": [runs.run("a")], "b": [runs.run("b", change=the_other_way_round)]}).outcomes
    assert (second.test, second.by_age, second.by_popularity) == (first.test, first.by_age, first.by_popularity)


def test_what_is_found_is_plain_numbers(runs: Runs) -> None:
    found = measured({"a": [runs.run("a")]}, resamples=5)
    assert json.loads(json.dumps(asdict(found), allow_nan=False))["outcomes"][0]["test"]["values"] == [AUC]
