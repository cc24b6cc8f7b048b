"""RehearsalObjective: the auxiliary loss that asks a memory for fragments of the events it has folded.

Suffixes: U user, F drawn fragment, G fragment of a user's history, B event of a fragment (not batch), M masked event,
R replaced event, D dim.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rm_rec.config import RehearsalConfig
from rm_rec.errors import BatchError, ConfigError
from rm_rec.histories import Histories, Queries, expect_rows, take
from rm_rec.machines.base import Slots
from rm_rec.rehearsal.decoder import FragmentDecoder
from rm_rec.rehearsal.familiarity import Familiarity, others_events
from rm_rec.rehearsal.fragments import (
    FragmentGrid,
    Fragments,
    count_fragments,
    fragment_grid,
    known_events,
    locate,
)
from rm_rec.rehearsal.masking import draw_masking, replace_events, select_events
from rm_rec.rehearsal.recollection import Recollection, event_keys
from rm_rec.rehearsal.sampler import Clicks, HistorySampler, draw_uniform
from rm_rec.sources.slots import SlotSource
from rm_rec.user_memory import StretchAnswers, UserMemory


@dataclass(frozen=True)
class RehearsalLoss:
    """The loss that rehearsal adds for one stretch, and metrics to log: the loss and accuracy of each part."""

    loss: Float[Tensor, ""]
    figures: dict[str, float]


@dataclass(frozen=True)
class _Part:
    name: str
    weight: float
    loss: Float[Tensor, ""]
    accuracy: Float[Tensor, ""]


class RehearsalObjective(nn.Module):
    """Recollection and familiarity on fragments that a sampler draws, for states that have folded these fragments.

    It reads any memory through its slots, in any training loop; without a machine (the baselines) masked events are
    predicted from their fragment alone. Its own weights are used in training only, and are not part of the model.

    >>> from rm_rec import MemoryConfig
    >>> memory = UserMemory(MemoryConfig(token_dim=8, segment_length=4))
    >>> rehearsal = RehearsalObjective(RehearsalConfig(fragment_length=4), memory)
    >>> optimizer = torch.optim.Adam([*memory.parameters(), *rehearsal.parameters()])
    >>> events = Histories.padded(torch.randn(2, 12, 8), torch.arange(24).view(2, 12))
    >>> queries = Queries(tokens=torch.randn(2, 8), user=torch.tensor([0, 1]), time=torch.tensor([99, 99]))
    >>> of_batch = rehearsal.begin(memory, events, queries)
    >>> for stretch in memory.stretches(events, queries):
    ...     loss = stretch.answers.sum()  # in place of the model's click loss
    ...     rehearsed = of_batch.loss(stretch)
    ...     if rehearsed is not None:
    ...         loss = loss + rehearsed.loss
    ...     loss.backward()
    """

    def __init__(self, config: RehearsalConfig, memory: UserMemory) -> None:
        super().__init__()
        dim, slots = memory.config.token_dim, memory.slots
        if dim % config.num_heads:
            raise ConfigError(f"rehearsal.num_heads is {config.num_heads}, which does not divide token_dim {dim}")
        self.config = config
        self.segment_length = memory.config.segment_length
        self.decoder = FragmentDecoder(
            token_dim=dim,
            slot_dim=slots.machine.slot_dim if slots is not None else None,
            fragment_length=config.fragment_length,
            num_layers=config.num_layers,
            num_heads=config.num_heads,
        )
        self.recollection = Recollection(dim) if config.recollection_weight else None
        self.familiarity = Familiarity(dim) if config.familiarity_weight else None
        self.sampler = HistorySampler(config.sampler, dim, config.fragment_length)
        self.num_masked = min(max(1, round(config.fragment_length * config.mask_ratio)), config.fragment_length - 1)
        num_unmasked = config.fragment_length - self.num_masked
        self.num_replaced = max(1, round(num_unmasked * config.replace_ratio))
        self.steps_done: Tensor
        self.register_buffer("steps_done", torch.zeros((), dtype=torch.int64))

    def begin(
        self,
        memory: UserMemory,
        histories: Histories,
        queries: Queries,
        *,
        content: Float[Tensor, "event dim"] | None = None,
        label: Float[Tensor, " query"] | None = None,
        generator: torch.Generator | None = None,
    ) -> "Rehearsal":
        """Start the rehearsal of one batch; in training, this counts as one step of the warm-up.

        `content` has the vectors of events that recollection predicts, by default the histories' tokens. `label` (1 for
        a click) is required by a sampler with a teacher. `generator` draws fragments and masks. Raises BatchError if
        vectors or required labels are missing, or if `content` has another number of rows than there are events.
        """
        content = histories.tokens if content is None else content
        if content is None:
            raise BatchError("rehearsal needs vectors of the events: histories with tokens, or content")
        expect_rows("content", content, len(histories.time), "as many as histories have events")
        grid = None
        if self.sampler.teacher is not None:
            if label is None:
                raise BatchError("the history sampler has a teacher, which learns from clicks: give label")
            with torch.no_grad():
                grid = fragment_grid(histories, queries, content, self.config.fragment_length)
        if generator is None:
            generator = torch.Generator(content.device).manual_seed(int(torch.randint(2**31, ())))
        warm_up_factor = min(1.0, (int(self.steps_done) + 1) / (self.config.warm_up_steps + 1))
        if self.training:
            self.steps_done += 1
        return Rehearsal(self, memory.slots, histories, queries, content, label, grid, warm_up_factor, generator)


class Rehearsal:
    """Computes the rehearsal loss of one batch, stretch by stretch; made by `RehearsalObjective.begin`."""

    def __init__(
        self,
        objective: RehearsalObjective,
        slots: SlotSource | None,
        histories: Histories,
        queries: Queries,
        content: Tensor,
        label: Tensor | None,
        grid: FragmentGrid | None,
        warm_up_factor: float,
        generator: torch.Generator,
    ) -> None:
        self.objective, self.config, self.slots = objective, objective.config, slots
        self.histories, self.queries, self.content, self.label = histories, queries, content, label
        self.grid, self.warm_up_factor, self.generator = grid, warm_up_factor, generator
        # Equal for events with the same keys; without keys, all events differ.
        self.event_key = torch.arange(len(content), device=content.device)
        if histories.keys:
            self.event_key = event_keys(histories.keys)

    def loss(self, stretch: StretchAnswers) -> RehearsalLoss | None:
        """Return the loss for the states of one stretch; None if none of them has folded a whole fragment."""
        weights, sampler_loss = None, None
        if self.grid is not None:
            weights, sampler_loss = self.objective.sampler(self.grid, self._clicks(stretch), self.generator)
        fragments = self._draw(stretch, weights)
        if not len(fragments):
            return None
        slots = None
        if self.slots is not None:
            if stretch.trace is None:
                raise BatchError("rehearsal needs the states at every boundary: stretches(..., every_boundary=True)")
            slots = self.slots.slots(stretch.trace, fragments.user, fragments.boundary - stretch.start)
        parts = self._parts(fragments, slots)
        figures = {f"{part.name}_loss": part.loss.item() for part in parts}
        figures |= {f"{part.name}_accuracy": part.accuracy.item() for part in parts}
        losses = [self.warm_up_factor * part.weight * part.loss for part in parts]
        if sampler_loss is not None:
            losses.append(sampler_loss)
            figures["sampler_loss"] = sampler_loss.item()
        return RehearsalLoss(torch.stack(losses).sum(), figures) if losses else None

    def _clicks(self, stretch: StretchAnswers) -> Clicks:
        assert self.label is not None
        seen = self.histories.lengths[self.queries.user]
        return Clicks(
            user=stretch.user,
            target=stretch.targets.detach(),
            num_earlier=(seen if self.queries.num_earlier is None else self.queries.num_earlier)[stretch.query],
            label=self.label.index_select(0, stretch.query),
        )

    def _draw(self, stretch: StretchAnswers, weights: Tensor | None) -> Fragments:
        """Draw, for each user, boundaries of the stretch and older fragments."""
        segment_length, length = self.objective.segment_length, self.config.fragment_length
        end = stretch.start + stretch.num_boundaries - 1
        # The state at the start has no gradient, and no state before boundary `whole` has folded a whole fragment.
        whole = -(-length // segment_length)
        first = max(stretch.start + 1, whole)
        last_U = (known_events(self.histories, self.queries) // segment_length).clamp(max=end)
        user_F = (last_U >= first).nonzero().squeeze(1).repeat_interleave(self.config.fragments_per_user)
        boundary_F = first + draw_uniform(last_U.index_select(0, user_F) - first + 1, self.generator)
        available_F = count_fragments(boundary_F * segment_length, length)
        weight_FG = weights.index_select(0, user_F) if weights is not None else None
        index_F = self.objective.sampler.draw(weight_FG, available_F, self.generator)
        return Fragments(user_F, boundary_F, index_F, locate(self.histories, user_F, index_F, length))

    def _parts(self, fragments: Fragments, slots: Slots | None) -> list[_Part]:
        """Mask fragments and return recollection's loss on masked events, and familiarity's on true and mixed ones."""
        objective, (num, length) = self.objective, fragments.position.shape
        masking = draw_masking(num, length, objective.num_masked, self.generator)
        content_FBD, key_FB = self._content(fragments.position)
        first_FD, decoded_FBD = objective.decoder(content_FBD, masking.is_masked, slots)
        parts = []
        if objective.recollection is not None:
            true_FMD, true_key_FM = select_events(content_FBD, masking.masked), key_FB.gather(1, masking.masked)
            candidates, candidate_keys = self._candidates(true_FMD, true_key_FM)
            answers_FMD = select_events(decoded_FBD, masking.masked)
            loss, correct = objective.recollection(answers_FMD, true_FMD, true_key_FM, candidates, candidate_keys)
            parts.append(_Part("recollection", self.config.recollection_weight, loss, correct.float().mean()))
        if objective.familiarity is not None:
            others = others_events(self.histories.lengths, fragments.user, objective.num_replaced, self.generator)
            if others is not None:
                replaced_FR = masking.shown[:, : objective.num_replaced]
                mixed_FBD = replace_events(content_FBD, replaced_FR, self._content(others)[0])
                mixed_first_FD, _ = objective.decoder(mixed_FBD, masking.is_masked, slots)
                loss, accuracy = objective.familiarity(first_FD, mixed_first_FD)
                parts.append(_Part("familiarity", self.config.familiarity_weight, loss, accuracy))
        return parts

    def _content(self, position_FB: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors of events, and their keys."""
        return take(self.content, position_FB), self.event_key[position_FB]

    def _candidates(self, true_FMD: Tensor, true_key_FM: Tensor) -> tuple[Tensor, Tensor]:
        """Return the negatives' vectors [F or 1, C, D] and keys; those with the masked event's key do not count."""
        if self.config.candidates == "fragment":
            return true_FMD, true_key_FM
        if self.config.candidates == "batch":
            vectors, keys = true_FMD.flatten(0, 1), true_key_FM.flatten()
            chosen = torch.randperm(len(keys), generator=self.generator, device=keys.device)[
                : self.config.num_candidates
            ]
            return vectors[chosen][None], keys[chosen][None]
        num_events = len(self.content)
        drawn = torch.full((1, self.config.num_candidates), num_events, device=true_key_FM.device)
        return self._content(draw_uniform(drawn, self.generator))
