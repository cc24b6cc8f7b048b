import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from feature_store.datasets.settings import SyntheticConfig
from feature_store.datasets.synthetic import best_possible_auc, make_synthetic_log

CONFIG = SyntheticConfig(users=400)


@pytest.fixture(scope="module")
def log() -> pa.Table:
    return make_synthetic_log(CONFIG)


def columns(log: pa.Table, *names: str) -> list[NDArray]:
    return [log[name].to_numpy() for name in names]


def balance_of_clicks(log: pa.Table, window: int) -> NDArray[np.float64]:
    """Count for each event the clicks less the refusals in its category among the user's last `window` events."""
    user, category, clicked = columns(log, "user_id", "category_id", "clicked")
    result = np.zeros(len(user))
    for one in np.unique(user):
        mine = np.flatnonzero(user == one)
        same = category[mine][:, None] == category[mine]
        age = np.arange(len(mine))[:, None] - np.arange(len(mine))
        result[mine] = (same & (age > 0) & (age <= window)) @ (2.0 * clicked[mine] - 1)
    return result


def test_a_long_memory_beats_a_short_one_by_much(log: pa.Table) -> None:
    user, clicked = columns(log, "user_id", "clicked")
    late = np.concatenate([np.flatnonzero(user == one)[-60:] for one in np.unique(user)])
    short, full = (roc_auc_score(clicked[late], balance_of_clicks(log, window)[late]) for window in (50, 10**6))
    assert 0.62 < short < 0.77  # both are learnable
    assert full > short + 0.05
    assert full < best_possible_auc(log)


def test_the_best_auc_is_between_080_and_085(log: pa.Table) -> None:
    assert 0.80 < best_possible_auc(log) < 0.85
    assert best_possible_auc(log) == pytest.approx(
        roc_auc_score(*columns(log, "clicked", "true_probability")), abs=0.01
    )


def test_the_best_auc_is_the_mean_over_pairs_and_draws() -> None:
    probability = np.array([0.1, 0.1, 0.5, 0.9])
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
    weight = np.array([probability[i] * (1 - probability[j]) for i, j in pairs])
    right = np.array([(probability[i] > probability[j]) + 0.5 * (probability[i] == probability[j]) for i, j in pairs])
    assert best_possible_auc(pa.table({"true_probability": probability})) == pytest.approx(
        right @ weight / weight.sum()
    )


def test_the_deciding_age_is_when_the_category_was_last_met(log: pa.Table) -> None:
    user, category, age = columns(log.slice(0, 2000), "user_id", "category_id", "deciding_age")
    last: dict[tuple[int, int], int] = {}
    for place, key in enumerate(zip(user.tolist(), category.tolist(), strict=True)):
        assert age[place] == (place - last[key] if key in last else 0)
        last[key] = place


def test_what_decides_a_late_click_is_often_out_of_reach_of_fifty_events(log: pa.Table) -> None:
    user, age = columns(log, "user_id", "deciding_age")
    late = np.concatenate([np.flatnonzero(user == one)[-30:] for one in np.unique(user)])
    assert (age[late] > 50).mean() > 0.15
    assert (age[late] > 100).mean() > 0.07


def test_clicks_follow_their_probability_and_times_rise(log: pa.Table) -> None:
    user, clicked, probability, time = columns(log, "user_id", "clicked", "true_probability", "timestamp")
    for low in np.arange(0, 1, 0.2):
        inside = (probability >= low) & (probability < low + 0.2)
        assert abs(clicked[inside].mean() - probability[inside].mean()) < 0.03
    assert (np.diff(time)[np.diff(user) == 0] > 0).all()


def test_items_repeat_by_zipfs_law_and_belong_to_one_category(log: pa.Table) -> None:
    item, category = columns(log, "item_id", "category_id")
    counts = np.sort(np.bincount(item, minlength=CONFIG.items))[::-1]
    assert counts[-1] >= 20  # enough for an embedding
    assert counts[:10].mean() > 8 * counts[-10:].mean()
    assert len(np.unique(np.stack([item, category]), axis=1).T) == len(np.unique(item))


def test_a_seed_makes_one_log(log: pa.Table) -> None:
    assert make_synthetic_log(CONFIG).equals(log)
    assert not make_synthetic_log(CONFIG.model_copy(update={"seed": 1})).equals(log)


def test_too_few_categories_are_refused() -> None:
    with pytest.raises(ValueError, match="need more than 30 categories; raise categories"):
        make_synthetic_log(SyntheticConfig(categories=30))
