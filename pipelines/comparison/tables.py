"""Results of a comparison as Markdown tables."""

from collections.abc import Mapping, Sequence

from pipelines.comparison.costs import NUM_CANDIDATES, NUM_EVENTS, Cost
from pipelines.comparison.names import REHEARSAL
from pipelines.comparison.outcomes import LogOutcomes, Outcome, Seeds, sorted_bins
from pipelines.evaluation.tables import markdown_table
from rm_rec.evaluation.report import Estimate


def report(logs: Sequence[LogOutcomes], measured: Mapping[str, Cost], segment_length: int) -> str:
    """Return all tables, with a section for each log."""
    parts = [part for outcomes in logs for part in _of_log(outcomes, segment_length)]
    if measured:
        parts += ["## Cost", _COST_NOTE, _cost_table(logs, measured)]
    return "\n\n".join(["# Memories compared", _NOTE, *parts]) + "\n"


_NOTE = (
    "AUC of the test split at the epoch that was best on validation: mean of the seeds ± half of their range, then the "
    "95 % interval of that mean over users. A gain is over the model that is named, on the same users, with the "
    "interval of the paired difference. Rows are sorted by validation AUC. `+rehearsal`: with the rehearsal loss."
)
_COST_NOTE = (
    f"Process time of one thread, medians of rounds over all models. Read: {NUM_CANDIDATES} candidates of one user "
    f"of {NUM_EVENTS:,} events. Train: users of as many events, two impressions after each. Bytes: a user's state in "
    "float16, without the raw events of its window."
)


def _of_log(outcomes: LogOutcomes, segment_length: int) -> list[str]:
    ranked = by_validation(outcomes)
    parts = [f"## {outcomes.log}", _facts(outcomes), _main_table(ranked)]
    rehearsed = _rehearsal_table(outcomes)
    if rehearsed:
        parts += ["Rehearsal on and off, seed by seed:", rehearsed]
    unit = f"in segments of {segment_length} events"
    age = (
        f"AUC by age of the deciding event, {unit}, among the impressions of that age:"
        if outcomes.known_age
        else f"AUC by age of the user's last event on the item, {unit}, of such clicks against all non-clicks:"
    )
    popularity = "AUC by the number of training events on the item, among the impressions of such items:"
    parts += [age, _bins_table(ranked, outcomes.rows_by_age, [o.by_age for o in ranked])]
    return [*parts, popularity, _bins_table(ranked, outcomes.rows_by_popularity, [o.by_popularity for o in ranked])]


def by_validation(outcomes: LogOutcomes) -> list[Outcome]:
    """Return a log's candidates, the best on validation first."""
    return sorted(outcomes.outcomes, key=lambda outcome: -outcome.validation.mean)


def _facts(outcomes: LogOutcomes) -> str:
    best = f"; best possible AUC {outcomes.best_possible:.4f}" if outcomes.best_possible is not None else ""
    first = outcomes.outcomes[0].candidate
    return f"{outcomes.impressions:,} test impressions of {outcomes.users:,} users{best}. Gains are over {first}."


def _main_table(ranked: Sequence[Outcome]) -> str:
    header = ["", "seeds", "test AUC", "95 % interval", "gain", "AUC inside users", "validation AUC", "learning rate"]
    rows = [
        [
            outcome.candidate,
            str(len(outcome.test.values)),
            seeds_text(outcome.test),
            _ends(outcome.test_interval),
            _gain(outcome.gain),
            "" if outcome.grouped is None else seeds_text(outcome.grouped),
            seeds_text(outcome.validation),
            f"{outcome.learning_rate:g}",
        ]
        for outcome in ranked
    ]
    return markdown_table(header, rows)


def _rehearsal_table(outcomes: LogOutcomes) -> str:
    by_name = {outcome.candidate: outcome for outcome in outcomes.outcomes}
    rows = []
    for name, rehearsed in by_name.items():
        plain = by_name.get(name.removesuffix(REHEARSAL))
        if plain is None or plain is rehearsed:
            continue
        test = _gains(plain, plain.test, rehearsed, rehearsed.test)
        validation = _gains(plain, plain.validation, rehearsed, rehearsed.validation)
        rows.append(
            [plain.candidate, seeds_text(plain.test), seeds_text(rehearsed.test), _signed(test), _signed(validation)]
        )
    return markdown_table(["", "off", "on", "gain, test", "gain, validation"], rows) if rows else ""


def _gains(plain: Outcome, off: Seeds, rehearsed: Outcome, on: Seeds) -> Seeds:
    """Return the gains seed by seed; a seed that only one of the two has finished is left out."""
    plain_values = dict(zip(plain.seeds, off.values, strict=True))
    pairs = zip(rehearsed.seeds, on.values, strict=True)
    return Seeds(tuple(value - plain_values[seed] for seed, value in pairs if seed in plain_values))


def _bins_table(ranked: Sequence[Outcome], rows: Mapping[str, int], values: Sequence[Mapping[str, Seeds]]) -> str:
    bins = sorted_bins(rows)
    cells = [
        [outcome.candidate, *(f"{by_bin[name].mean:.3f}" if name in by_bin else "" for name in bins)]
        for outcome, by_bin in zip(ranked, values, strict=True)
    ]
    return markdown_table(["", *bins], [["rows", *(f"{rows[name]:,}" for name in bins)], *cells])


def _cost_table(logs: Sequence[LogOutcomes], measured: Mapping[str, Cost]) -> str:
    sizes = {outcome.candidate: outcome.state_bytes for log in logs for outcome in log.outcomes}
    rows = [
        [
            name,
            f"{sizes[name]:,}",
            f"{cost.write:.2f}" if cost.write else "",
            f"{cost.read:.2f}",
            f"{cost.train:.1f}",
            f"{1e6 / cost.train:,.0f}",
        ]
        for name, cost in measured.items()
    ]
    header = ["", "bytes a user", "write, µs an event", "read, ms", "train, µs an impression", "impressions a second"]
    return markdown_table(header, rows)


def seeds_text(seeds: Seeds) -> str:
    """Return the mean of the seeds, plus and minus half of their range; for one seed, its value."""
    return f"{seeds.mean:.4f}" + (f" ± {seeds.spread:.4f}" if len(seeds.values) > 1 else "")


def _signed(seeds: Seeds) -> str:
    if not seeds.values:
        return ""
    return f"{seeds.mean:+.4f}" + (f" ± {seeds.spread:.4f}" if len(seeds.values) > 1 else "")


def _ends(interval: tuple[float | None, float | None]) -> str:
    low, high = interval
    return "" if low is None or high is None else f"{low:.4f} to {high:.4f}"


def _gain(gain: Estimate) -> str:
    if not gain.value:
        return ""
    ends = "" if gain.low is None or gain.high is None else f" ({gain.low:+.4f} to {gain.high:+.4f})"
    return f"{gain.value:+.4f}{ends}"
