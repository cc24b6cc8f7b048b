"""Checks of a candidate before impressions are scored: unseen impressions, built memories, no earlier roll-back."""

from collections.abc import Collection, Sequence

from feature_store.data_config import DataConfig
from feature_store.logs.preparation import log_fingerprint
from feature_store.stores import NoMemoriesError, open_store, public_address
from pipelines.cli.job import this_python
from pipelines.promotion.contenders import Contender, on_log
from pipelines.promotion.gate import Check
from pipelines.registry.model_registry import ROLLED_BACK_AT, Version


def not_rolled_back(candidate: Version, *, allowed: bool) -> Sequence[Check]:
    """Check that a version was not rolled back: else a nightly job would promote it again."""
    rolled_back_at = candidate.tags.get(ROLLED_BACK_AT)
    if not rolled_back_at:
        return ()
    fix = "train another, or --allow-rolled-back"
    return (Check("Candidate", f"rolled back at {rolled_back_at}", "never rolled back", allowed, fix=fix),)


def memories_built(contender: Contender, version: Version, store: str | None, log: str, *, allowed: bool) -> Check:
    """Check that a store has memories of the model's memory space: without them a champion cannot be served.

    Raises DataError if the store cannot be read.
    """
    space = contender.trained.card.memory_space
    if space is None:
        return Check("Memories", "none needed: its window is the whole history", "built", holds=True)
    state, holds = "no store named", False
    if store is not None:
        state, holds = _state_of(store, space)
    new = public_address(store) if store is not None and state.startswith("nothing") else f"memories-{space[:8]}"
    command = f"{this_python()} -m pipelines.build_memory --model {version.address} --memories {new} --log {log}"
    fix = f"build them, then name them with --memories {new} (or --allow-unbuilt): {command}"
    if not holds and allowed:
        state += " (allowed)"
    return Check("Memories", state, f"of space {space}", holds=holds or allowed, fix=fix)


def unseen(contender: Contender, data: DataConfig, others: Collection[str], *, allowed: bool) -> Check:
    """Check that a model was trained on this log and split, so that it has not seen the held-out impressions.

    `data` is the candidate's data config on this log. A model that was trained on another log or split may have been
    trained on some of the held-out impressions, and so may the model that it started from, unless its weights are among
    `others`: those of the models that are checked too. Raises DataError if the log cannot be read.
    """
    state, holds = "of the log and split it was trained on", True
    reason = _trained_on_other(contender, data, others)
    if reason is not None:
        state, holds = reason + (" (allowed)" if allowed else ""), allowed
    fix = (
        "it may have been trained on some of them; if the log has only grown since then, it was not: --allow-other-log"
    )
    return Check(f"Held-out impressions, {contender.name}", state, "unseen in training", holds, fix=fix)


def _trained_on_other(contender: Contender, data: DataConfig, others: Collection[str]) -> str | None:
    own = contender.data
    if own is None or contender.data_sha256 is None:
        return "it is not known what it was trained on"
    own_here = on_log(own, data.log, getattr(data.impressions, "path", None))
    for name in ("split", "bad_rows", "duplicate_rows"):
        if getattr(own, name) != getattr(data, name):
            return f"trained with another data.{name} than the candidate"
    sha256 = log_fingerprint(own_here)
    if sha256 != contender.data_sha256:
        return f"trained on another log: data_sha256 {contender.data_sha256[:12]}, this one is {sha256[:12]}"
    start = contender.started_from
    if start is not None and start not in others:
        return f"it was trained further from another model (weights {start[:12]}), whose log is not known"
    return None


def _state_of(address: str, space: str) -> tuple[str, bool]:
    try:
        with open_store(address) as store:
            if store.facts.space_id != space:
                return f"{store.address} has memories of space {store.facts.space_id}", False
            journal, count = store.journal(), store.count()
            if not journal.builds:
                return f"{store.address}: its first build is not finished", False
            return f"{count:,} of space {space} in {store.address}", count > 0
    except NoMemoriesError:
        return f"nothing at {public_address(address)}", False
