"""Retention of a trained model: recollection by a probe, and click AUC, by the age of events in segments.

The model is looked at and not changed; measuring again, with the same settings, gives the same numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from feature_store.ragged import Ids
from feature_store.sequences.ages import events_since_item
from pipelines.cli.job import Progress
from pipelines.evaluation.predictions import numbers, user_codes
from pipelines.evaluation.settings import PredictionColumns, RetentionConfig
from pipelines.training.batches import BatchSize, iterate_batches
from pipelines.training.data import TEST, TRAIN, VALIDATION, LogData
from rm_rec.batch import UserBatch
from rm_rec.config import RecentSegments
from rm_rec.evaluation.by_age import Answers, RankingByAge, Recollection, ages_in_segments, ranking_by_age, share_by_age
from rm_rec.model import ClickModel
from rm_rec.rehearsal.probe import NUM_MASKED, Questions, RecollectionProbe, draw_questions, join, last_questions

# The probe's settings are the same for all models, so that results can be compared.
_NUM_CANDIDATES = 99  # negatives for each masked event
_FRAGMENTS_TAUGHT, _FRAGMENTS_A_USER = 20_000, 8  # largest numbers of training fragments
_FRAGMENTS_A_STEP, _LEARNING_RATE = 128, 3e-3
_BATCH_EVENTS, _FRAGMENTS_AT_ONCE = 4096, 512  # bounds of memory use


@dataclass(frozen=True)
class Retention:
    """The retention of one run."""

    fingerprint: str
    """Fingerprint of the run."""
    conditions: dict[str, Any]
    """Log and settings that another run must share for its curves to compare."""
    compared_with: str | None
    """Folder of the run whose curves are drawn beside this one's."""
    window_segments: int | None
    """Ages up to this are in the recent window too; None where the window is not made of segments."""
    recollection: Recollection | None
    """None where the model has no memory machine, or no history fills a segment and a fragment."""
    ranking: RankingByAge


def measure(
    config: RetentionConfig,
    resamples: int,
    data: LogData,
    model: ClickModel,
    predictions: pa.Table,
    *,
    fingerprint: str,
    compared_with: str | None = None,
) -> Retention:
    """Probe a finished model on its log, and split its predictions of the test split by age."""
    window = model.config.window
    model.eval()
    return Retention(
        fingerprint=fingerprint,
        conditions=conditions(config, data, model.config.segment_length),
        compared_with=compared_with,
        window_segments=window.num_segments if isinstance(window, RecentSegments) else None,
        recollection=_recollection(config, resamples, data, model),
        ranking=_ranking(config, resamples, data, model.config.segment_length, predictions),
    )


def conditions(config: RetentionConfig, data: LogData, segment_length: int) -> dict[str, Any]:
    """Return, by key, what two runs must share for their curves to compare."""
    return {
        "data_sha256": data.prepared.manifest.fingerprint,
        "model.segment_length": segment_length,
        **config.model_dump(mode="json"),
    }


def _recollection(config: RetentionConfig, resamples: int, data: LogData, model: ClickModel) -> Recollection | None:
    """Train probes on the training split, and test them on the states of the last validation impressions."""
    if model.memory.slots is None:
        return None
    device = next(model.parameters()).device
    random = torch.Generator(device).manual_seed(config.seed)
    taught = _collect(
        data,
        TRAIN,
        (config.seed, 0),
        lambda batch: draw_questions(model, batch.to(device), _FRAGMENTS_A_USER, random),
        _FRAGMENTS_TAUGHT,
    )
    questions = _collect(
        data,
        VALIDATION,
        (config.seed, 1),
        lambda batch: last_questions(model, batch.to(device)),
        config.events_asked / NUM_MASKED,
    )
    if taught is None or questions is None:
        return None
    users = np.repeat(questions.user.cpu().numpy(), NUM_MASKED)

    def answers(probe: RecollectionProbe, questions: Questions) -> Answers:
        picked, ages = _ask(config, model, probe, questions)
        return share_by_age(picked, ages, users, age_bins=config.age_bins, resamples=resamples, seed=config.seed)

    reader = _trained_probe(config, model, taught, reads_memory=True)
    others = answers(reader, questions.of_another_user()) if len(questions.slots.valid) > 1 else None
    return Recollection(
        memory=answers(reader, questions),
        alone=answers(_trained_probe(config, model, taught, reads_memory=False), questions),
        another_user=others,
        chance=1 / (1 + _NUM_CANDIDATES),
    )


def _trained_probe(
    config: RetentionConfig, model: ClickModel, questions: Questions, *, reads_memory: bool
) -> RecollectionProbe:
    device = questions.user.device
    probe = RecollectionProbe(model, config.seed, reads_memory=reads_memory).to(device).train()
    optimizer = torch.optim.Adam(probe.parameters(), lr=_LEARNING_RATE)
    random = torch.Generator(device).manual_seed(config.seed)
    with Progress(f"probing {'with' if reads_memory else 'without'} memory", config.probe_steps, "steps") as progress:
        for _ in range(config.probe_steps):
            rows = torch.randint(len(questions), (_FRAGMENTS_A_STEP,), generator=random, device=device)
            candidates = _candidates(questions, random)
            loss, _, _ = probe(model, questions.select(rows), candidates, random)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()
            progress.advance(note=f"loss {loss.item():.4f}")
    return probe.eval()


def _collect(
    data: LogData, split: int, seed: tuple[int, int], ask: Callable[[UserBatch], Questions], num_fragments: float
) -> Questions | None:
    """Collect fragments of users of a split, in random order, until there are enough; None if no user has any."""
    generator = np.random.default_rng(seed)
    parts: list[Questions] = []
    for sequences in data.buckets():
        for _, batch in iterate_batches(sequences, split, BatchSize(_BATCH_EVENTS), generator):
            parts.append(ask(batch))
            if sum(map(len, parts)) >= num_fragments:
                return join(parts)
    return join(parts) if any(map(len, parts)) else None


@torch.inference_mode()
def _ask(
    config: RetentionConfig, model: ClickModel, probe: RecollectionProbe, questions: Questions
) -> tuple[np.ndarray, np.ndarray]:
    """Return whether each masked event was picked out, and its age; the same events are masked each time."""
    random = torch.Generator(questions.user.device).manual_seed(config.seed)
    picked, ages = [], []
    for rows in torch.split(torch.arange(len(questions), device=questions.user.device), _FRAGMENTS_AT_ONCE):
        candidates = _candidates(questions, random)
        _, right, age = probe(model, questions.select(rows), candidates, random)
        picked.append(right.cpu().numpy())
        ages.append(age.cpu().numpy())
    return np.concatenate(picked).ravel(), np.concatenate(ages).ravel()


def _candidates(questions: Questions, random: torch.Generator) -> dict[str, torch.Tensor]:
    """Sample negatives for masked events, uniformly from the events of all fragments."""
    events = {name: ids.flatten() for name, ids in questions.events.items()}
    num_events = questions.age.numel()
    rows = torch.randint(num_events, (_NUM_CANDIDATES,), generator=random, device=questions.user.device)
    return {name: ids.index_select(0, rows) for name, ids in events.items()}


def _ranking(
    config: RetentionConfig, resamples: int, data: LogData, segment_length: int, predictions: pa.Table
) -> RankingByAge:
    columns, name = PredictionColumns(), "predictions.parquet"
    known_age = config.age_column in predictions.column_names
    if known_age:
        events_ago = numbers(predictions, config.age_column, name, at_least=0).astype(np.int64)
    else:
        events_ago = events_since_items(data, predictions)
    truth = None
    if columns.true_probability in predictions.column_names:
        truth = numbers(predictions, columns.true_probability, name, at_least=0, at_most=1)
    return ranking_by_age(
        numbers(predictions, columns.label, name),
        numbers(predictions, columns.prediction, name),
        user_codes(predictions, columns.user, name),
        ages_in_segments(predictions[columns.history_length].to_numpy(), events_ago, segment_length),
        known_age=known_age,
        true_probabilities=truth,
        age_bins=config.age_bins,
        resamples=resamples,
        seed=config.seed,
    )


def events_since_items(data: LogData, predictions: pa.Table) -> Ids:
    """Count, for each prediction of the test split, how many events ago its user last met its item; 0: never."""
    users, found = [], []
    for bucket in range(data.prepared.num_buckets):
        sequences = data.bucket(bucket)
        impressions = np.flatnonzero(sequences.split == TEST)
        owner = np.searchsorted(sequences.impression_offsets, impressions, side="right") - 1
        users.append(sequences.users.take(pa.array(owner)))
        found.append(events_since_item(data.prepared, bucket, sequences, impressions))
    theirs = predictions[PredictionColumns().user].combine_chunks()
    codes = pa.concat_arrays([theirs, *users]).dictionary_encode().indices.to_numpy()
    # Predictions are ordered by batch, sequences by bucket; within a user both are in the order of the impressions.
    of_predictions, of_sequences = (np.argsort(part, kind="stable") for part in np.split(codes, [len(theirs)]))
    assert np.array_equal(codes[: len(theirs)][of_predictions], codes[len(theirs) :][of_sequences])
    events_ago = np.empty(len(theirs), np.int64)
    events_ago[of_predictions] = np.concatenate(found)[of_sequences]
    return events_ago
