"""What must hold of a candidate before any impression is scored: fair to ask, able to serve, not sent back before."""

from collections.abc import Collection, Sequence

from feature_store.data_config import DataConfig
from feature_store.logs.preparation import log_fingerprint
from feature_store.stores import NoMemoriesError, open_store, public_address
from pipelines.cli.job import this_python
from pipelines.promotion.contenders import Contender, on_log
from pipelines.promotion.gate import Check
from pipelines.registry.model_registry import ROLLED_BACK_AT, Version


def not_rolled_back(candidate: Version, *, allowed: bool) -> Sequence[Check]:
    """Refuse a version that was champion and was sent back: a job each night would promote it again."""
    moment = candidate.tags.get(ROLLED_BACK_AT)
    if not moment:
        return ()
    mend = "train another, or --allow-rolled-back"
    return (Check("Candidate", f"rolled back at {moment}", "never rolled back", allowed, mend=mend),)


def memories_built(contender: Contender, version: Version, store: str | None, log: str, *, allowed: bool) -> Check:
    """Ask for a store that has memories of the model's own space: without them a champion cannot serve.

    Raises DataError where the store cannot be read.
    """
    space = contender.trained.card.memory_space
    if space is None:
        return Check("Memories", "none needed: its window is the whole history", "built", holds=True)
    found, holds = "no store named", False
    if store is not None:
        found, holds = _look_into(store, space)
    new = public_address(store) if store is not None and found.startswith("nothing") else f"memories-{space[:8]}"
    command = f"{this_python()} -m pipelines.build_memory --model {version.address} --memories {new} --log {log}"
    mend = f"build them, then name them with --memories {new} (or --allow-unbuilt): {command}"
    if not holds and allowed:
        found += " (allowed)"
    return Check("Memories", found, f"of space {space}", holds=holds or allowed, mend=mend)


def unseen(contender: Contender, data: DataConfig, others: Collection[str], *, allowed: bool) -> Check:
    """Ask that a model was trained on this very log and split, so that what is held out was held out from it too.

    `data` is the candidate's data config on this log. Anything else may leak: a model that was trained on some of the
    held-out impressions knows the answers. A model that went on from another one knows what that knew; `others` are
    the weights of those that are asked the same. Raises DataError where there is no such log.
    """
    found, holds = "of the log and split it was trained on", True
    reason = _trained_on_other(contender, data, others)
    if reason is not None:
        found, holds = reason + (" (allowed)" if allowed else ""), allowed
    mend = (
        "a model that was trained on some of them knows the answers; where the log has only grown since then, none of "
        "them was there to train on: --allow-other-log"
    )
    return Check(f"Held-out impressions, {contender.name}", found, "unseen in training", holds, mend=mend)


def _trained_on_other(contender: Contender, data: DataConfig, others: Collection[str]) -> str | None:
    own = contender.data
    if own is None or contender.data_sha256 is None:
        return "it is not known what it was trained on"
    here = on_log(own, data.log, getattr(data.impressions, "path", None))
    for name in ("split", "bad_rows", "duplicate_rows"):
        if getattr(own, name) != getattr(data, name):
            return f"trained with another data.{name} than the candidate"
    found = log_fingerprint(here)
    if found != contender.data_sha256:
        return f"trained on another log: data_sha256 {contender.data_sha256[:12]}, this one is {found[:12]}"
    start = contender.started_from
    if start is not None and start not in others:
        return f"it went on from another model (weights {start[:12]}), whose log is not known"
    return None


def _look_into(address: str, space: str) -> tuple[str, bool]:
    try:
        with open_store(address) as store:
            if store.facts.space_id != space:
                return f"{store.address} has those of space {store.facts.space_id}", False
            journal, count = store.journal(), store.count()
            if not journal.builds:
                return f"{store.address}: its first build is not finished", False
            return f"{count:,} of space {space} in {store.address}", count > 0
    except NoMemoriesError:
        return f"nothing at {public_address(address)}", False
