"""A synthetic log in which many clicks depend on events hundreds of events ago."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_store.datasets.settings import SyntheticConfig

FIRST_MOMENT = 1_700_000_000  # in seconds


def make_synthetic_log(config: SyntheticConfig) -> pa.Table:
    """Make a log whose click probabilities are known, sorted by user and time.

    Each user likes or dislikes each category, and that never changes. Clicks are likely in liked categories, so that a
    user's earlier clicks in a category predict later ones. Recent interests recur within tens of events. Early
    interests occur in the first part of the history and again in the last, many of them after hundreds of events.

    Returns:
        user_id, item_id, category_id, timestamp (seconds), clicked (0 or 1), true_probability (of the click) and
        deciding_age (how many events ago the user's last event in the category was; 0: never).
    """
    draw = np.random.default_rng(config.seed)
    users = np.arange(config.users)
    lengths = np.round(config.events_per_user * draw.uniform(0.6, 1.4, config.users)).astype(np.int64)
    likes = draw.choice([-1.0, 1.0], (config.users, config.categories))
    # The first `early_interests` of each row are the user's early ones; the others become recent ones in turn.
    order = draw.permuted(np.tile(np.arange(config.categories), (config.users, 1)), axis=1)
    early, others = order[:, : config.early_interests], order[:, config.early_interests :]
    recent = others[:, : config.recent_interests].copy()
    next_other = np.full(config.users, config.recent_interests)
    next_early = np.zeros(config.users, np.int64)
    last_event = np.full((config.users, config.categories), -1)
    steps = int(lengths.max())
    category = np.zeros((steps, config.users), np.int64)
    age = np.zeros((steps, config.users), np.int64)
    new_session = draw.random((steps, config.users)) < 1 / 12
    for step in range(steps):
        drifting = np.flatnonzero(new_session[step] & (draw.random(config.users) < config.drift))
        index = draw.integers(0, config.recent_interests, len(drifting))
        recent[drifting, index] = others[drifting, next_other[drifting] % others.shape[1]]
        next_other[drifting] += 1
        progress = step / lengths
        in_early_part, in_late_part = progress < config.early_part, progress >= 1 - config.late_part
        early_probability = np.where(in_early_part, config.early_share, np.where(in_late_part, config.late_share, 0.0))
        is_early = draw.random(config.users) < early_probability
        returning = draw.integers(0, config.early_interests, config.users)
        which = np.where(in_early_part, next_early % config.early_interests, returning)
        chosen = recent[users, draw.integers(0, config.recent_interests, config.users)]
        chosen = np.where(is_early, early[users, which], chosen)
        next_early += is_early
        category[step], age[step] = chosen, step - last_event[users, chosen]
        age[step][last_event[users, chosen] < 0] = 0
        last_event[users, chosen] = step
    real = (np.arange(steps)[:, None] < lengths).T
    category, age = category.T[real], age.T[real]
    user = np.repeat(users, lengths)
    item = _popular_items(draw, category, config)
    quality = draw.normal(0, config.quality, config.items)
    probability = 1 / (1 + np.exp(-(config.strength * likes[user, category] + quality[item])))
    within = draw.integers(5, 120, len(user))
    between = draw.exponential(2 * 86_400, len(user)).astype(np.int64) + 1800
    gap = np.where(new_session.T[real], between, within)
    elapsed = np.cumsum(gap)
    elapsed -= np.repeat(elapsed[np.cumsum(lengths) - lengths], lengths)
    return pa.table(
        {
            "user_id": user,
            "item_id": item,
            "category_id": category,
            "timestamp": FIRST_MOMENT + np.repeat(draw.integers(0, 30 * 86_400, config.users), lengths) + elapsed,
            "clicked": (draw.random(len(user)) < probability).astype(np.int8),
            "true_probability": probability,
            "deciding_age": age,
        }
    )


def _popular_items(
    draw: np.random.Generator, category: NDArray[np.int64], config: SyntheticConfig
) -> NDArray[np.int64]:
    """Draw an item of each category by Zipf's law; item i is in category i modulo the number of categories."""
    size = -(-(config.items - np.arange(config.categories)) // config.categories)
    rank = np.arange(1, size.max() + 1)
    cumulative = np.cumsum(np.where(rank <= size[:, None], 1 / rank, 0), axis=1)
    point = draw.random(len(category)) * cumulative[category, -1]
    index = (point[:, None] >= cumulative[category]).sum(axis=1)
    return np.asarray(np.minimum(index, size[category] - 1) * config.categories + category, np.int64)


def best_possible_auc(table: pa.Table) -> float:
    """Return the expected AUC of ranking by the known click probabilities, the highest that a model can expect.

    It is an expectation: on the clicks of the table, which are one sample, this ranking or a model may have a slightly
    higher or lower AUC. A model has to learn each user's likes from the history, so that it stays below.

    >>> round(best_possible_auc(pa.table({"true_probability": [0.2, 0.8]})), 3)
    0.941
    """
    probability = np.sort(table["true_probability"].to_numpy())
    clicks, rest = probability, 1 - probability
    # A pair is ranked correctly if the click has the higher probability; ties count half, hence the two sums.
    _, start = np.unique(probability, return_index=True)
    of_value = np.add.reduceat(rest, start)
    below = np.cumsum(of_value) - of_value
    correct = np.add.reduceat(clicks, start) @ (below + of_value / 2)
    same = (clicks * rest).sum()  # an impression does not form a pair with itself
    return float((correct - same / 2) / (clicks.sum() * rest.sum() - same))
