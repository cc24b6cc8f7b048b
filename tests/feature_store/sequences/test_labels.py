from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from feature_store.data_config import Columns, DataConfig, ImpressionFile, LabelColumn, NextEvent, VocabularySizes
from feature_store.errors import DataError
from feature_store.logs.splits import TRAIN
from feature_store.sequences.labels import draw_negatives, draws
from feature_store.sequences.user_sequences import load_sequences, resample_negatives
from tests.feature_store.small_logs import arrays, assert_equal, by_user, random_log

Load = Callable[..., Any]
COLUMNS = Columns(event_features=("action",), item_features=("category",))


def config_of(path: str, **changed: Any) -> DataConfig:
    sizes = VocabularySizes(min_count=1)
    return DataConfig(
        **{"log": path, "columns": COLUMNS, "impressions": NextEvent(negatives=3), "vocabulary": sizes} | changed
    )


def test_each_positive_is_followed_by_its_negatives_in_time_order(write: Any, load: Load) -> None:
    log = random_log()
    _, vocabularies, (sequences,) = load(config_of(write(log), duplicate_rows="keep"))
    ordered = log.append_column("row", pa.array(range(log.num_rows)))
    ordered = ordered.sort_by([("user_id", "ascending"), ("timestamp", "ascending"), ("row", "ascending")])
    assert sequences.label.reshape(-1, 4).tolist() == [[1, 0, 0, 0]] * 480
    items = np.array(sequences.item.to_pylist()).reshape(-1, 4)
    assert items[:, 0].tolist() == ordered["item_id"].to_pylist()
    assert (items[:, 1:] != items[:, :1]).all()
    assert sequences.impression_offsets.tolist() == (sequences.event_offsets * 4).tolist()
    assert sequences.impression_time.reshape(-1, 4)[:, 2].tolist() == ordered["timestamp"].to_pylist()
    np.testing.assert_array_equal(sequences.targets["item"], vocabularies.features["item"].encode(sequences.item))
    category = {row["item_id"]: row["category"] for row in log.to_pylist()}
    expected = vocabularies.features["category"].encode(pa.array([category[i] for i in sequences.item.to_pylist()]))
    np.testing.assert_array_equal(sequences.targets["category"], expected)


def test_negatives_follow_their_counts_without_the_positive() -> None:
    counts = np.array([50, 30, 15, 5])
    users = pa.array(range(200))
    random = draws(0, users, np.arange(0, 201 * 100, 100), 2)
    for positive in range(-1, 4):
        drawn = draw_negatives(random, np.full(len(random), positive), counts).ravel()
        expected = np.where(np.arange(4) == positive, 0, counts)
        frequency = np.bincount(drawn, minlength=4) / len(drawn)
        assert np.abs(frequency - expected / expected.sum()).max() < 0.01
        assert positive < 0 or frequency[positive] == 0


@pytest.mark.parametrize(("sampling", "skewed"), [("popularity", True), ("uniform", False)])
def test_sampling(write: Any, load: Load, sampling: Any, skewed: bool) -> None:
    items = [1] * 80 + list(range(2, 22))
    log = {"user_id": [1] * 100, "item_id": items, "timestamp": np.random.default_rng(0).permutation(100)}
    impressions = NextEvent(negatives=20, sampling=sampling)
    config = DataConfig(log=write(log), impressions=impressions)
    (sequences,) = load(config)[2]
    groups = np.array(sequences.item.to_pylist()).reshape(-1, 21)
    share_of_1 = (groups[groups[:, 0] != 1, 1:] == 1).mean()
    assert (share_of_1 > 0.7) == skewed
    assert (share_of_1 < 0.15) != skewed


def test_negatives_do_not_depend_on_buckets(write: Any, load: Load) -> None:
    path = write(random_log())
    together = by_user(load(config_of(path), "one")[2])
    apart = by_user(load(config_of(path, events_per_bucket=50), "many")[2])
    for user, sequences in together.items():
        assert_equal(sequences, apart[user])
    other_seed = by_user(load(config_of(path, seed=1), "seed")[2])
    assert any(
        arrays(other_seed[u])["targets:item"].tolist() != arrays(together[u])["targets:item"].tolist() for u in apart
    )


def test_resampling_changes_only_training_negatives(write: Any, load: Load) -> None:
    config = config_of(write(random_log()))
    _, vocabularies, (sequences,) = load(config)
    kept = sequences.targets["item"].copy()
    again = resample_negatives(sequences, vocabularies, config, seed=5)
    negative = (sequences.split == TRAIN) & (sequences.label == 0)
    changed = again.targets["item"] != sequences.targets["item"]
    assert changed[negative].mean() > 0.7
    assert not changed[~negative].any()
    np.testing.assert_array_equal(sequences.targets["item"], kept)  # the argument stays as it was
    np.testing.assert_array_equal(again.targets["item"], vocabularies.features["item"].encode(again.item))
    items = np.array(again.item.to_pylist()).reshape(-1, 4)
    assert (items[:, 1:] != items[:, :1]).all()
    assert_equal(again, resample_negatives(sequences, vocabularies, config, seed=5))
    # A batch of some users, training impressions only, is given the same negatives.
    users = np.array([7, 2, 9])
    batch = resample_negatives(sequences.select(users, TRAIN), vocabularies, config, seed=5)
    assert_equal(batch, again.select(users, TRAIN))


def test_negatives_of_another_vocabulary_are_asked_by_ones_own(write: Any, load: Load) -> None:
    config, others = config_of(write(random_log())), config_of(write(random_log(seed=1, items=9), "others.parquet"))
    prepared, vocabularies, (own,) = load(config)
    _, theirs, _ = load(others, "others")
    asked = load_sequences(prepared, 0, vocabularies, config, drawn_from=theirs)
    by_them = load_sequences(prepared, 0, theirs, config)
    assert asked.item.equals(by_them.item)
    assert not asked.item.equals(own.item)
    for name, rows in vocabularies.targets(asked.item).items():
        np.testing.assert_array_equal(asked.targets[name], rows)
    assert_equal(load_sequences(prepared, 0, vocabularies, config, drawn_from=vocabularies), own)


def test_one_item_alone_has_no_negatives(write: Any, load: Load) -> None:
    log = {"user_id": [1] * 10, "item_id": [4] * 9 + [5], "timestamp": range(10)}
    with pytest.raises(
        DataError, match=r"training split has 1 distinct items, but next_event needs at least 2 to draw negatives; make"
    ):
        load(DataConfig(log=write(log)))


@pytest.mark.parametrize("own_file", [False, True])
def test_labels_context_and_carried_columns(write: Any, load: Load, own_file: bool) -> None:
    log = random_log()
    names = {"column": "clicked", "context_features": ("position",), "context_dense": ("price",), "carry": ("clicked",)}
    impressions = LabelColumn(**names) if not own_file else ImpressionFile(path=write(log, "shown.parquet"), **names)
    config = config_of(write(log), impressions=impressions, duplicate_rows="keep")
    _, vocabularies, (sequences,) = load(config)
    ordered = log.append_column("row", pa.array(range(log.num_rows)))
    ordered = ordered.sort_by([("user_id", "ascending"), ("timestamp", "ascending"), ("row", "ascending")])
    assert sequences.label.tolist() == ordered["clicked"].to_pylist()
    assert sequences.carried["clicked"].tolist() == ordered["clicked"].to_pylist()
    np.testing.assert_array_equal(sequences.context_dense[:, 0], ordered["price"].to_numpy())
    position = vocabularies.features["position"]
    np.testing.assert_array_equal(sequences.context["position"], position.encode(ordered["position"]))
    assert sequences.item.to_pylist() == ordered["item_id"].to_pylist()
    assert resample_negatives(sequences, vocabularies, config, seed=1) is sequences
    assert list(sequences.events) == ["item", "action", "category"]
    assert list(sequences.targets) == ["item", "category"]
