"""RehearsalObjective: asks a memory for fragments of what it has folded. Given to training, never part of a model.

Suffixes: F fragment, B event of a fragment, M masked event of a fragment, D dim.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rm_rec.batch import UserBatch
from rm_rec.config import RehearsalConfig
from rm_rec.errors import ConfigError
from rm_rec.machines.base import Slots
from rm_rec.model import ClickModel, StretchOutput
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
from rm_rec.rehearsal.masking import at_places, draw_masking, replaced
from rm_rec.rehearsal.recollection import Recollection, event_keys
from rm_rec.rehearsal.sampler import Clicks, HistorySampler, draw_uniform


@dataclass(frozen=True)
class RehearsalLoss:
    """What rehearsal adds to the loss of one stretch, and figures to look at: its parts' losses and successes."""

    loss: Float[Tensor, ""]
    figures: dict[str, float]


@dataclass(frozen=True)
class _Part:
    name: str
    weight: float
    loss: Float[Tensor, ""]
    accuracy: Float[Tensor, ""]


class RehearsalObjective(nn.Module):
    """Recollection and familiarity on fragments that a sampler draws, asked of states that have folded them.

    It attaches to any machine through its slots; without a machine (the baselines) masked events are predicted from
    their fragment alone. It has weights of its own, for training only.
    """

    def __init__(self, config: RehearsalConfig, model: ClickModel) -> None:
        super().__init__()
        dim, machine = model.config.token_dim, model.memory.machine
        if dim % config.num_heads:
            raise ConfigError(f"rehearsal.num_heads is {config.num_heads}, which does not divide token_dim {dim}")
        self.config = config
        self.segment_length = model.config.segment_length
        self.decoder = FragmentDecoder(
            token_dim=dim,
            slot_dim=machine.slot_dim if machine is not None else None,
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

    def begin(self, model: ClickModel, batch: UserBatch, generator: torch.Generator) -> "Rehearsal":
        """Begin to rehearse one batch; in training, count a step of the warm-up."""
        grid = None
        if self.sampler.teacher is not None:
            with torch.no_grad():
                grid = fragment_grid(batch, model.embedding.content(batch.events), self.config.fragment_length)
        warmth = min(1.0, (int(self.steps_done) + 1) / (self.config.warm_up_steps + 1))
        if self.training:
            self.steps_done += 1
        return Rehearsal(self, model, batch, grid, warmth, generator)


class Rehearsal:
    """The rehearsal of one batch."""

    def __init__(
        self,
        objective: RehearsalObjective,
        model: ClickModel,
        batch: UserBatch,
        grid: FragmentGrid | None,
        warmth: float,
        generator: torch.Generator,
    ) -> None:
        self.objective, self.config = objective, objective.config
        self.model, self.batch, self.grid = model, batch, grid
        self.warmth, self.generator = warmth, generator

    def loss(self, output: StretchOutput) -> RehearsalLoss | None:
        """Rehearse with the states of one stretch; None if no state of it has folded a whole fragment."""
        weights, sampler_loss = None, None
        if self.grid is not None:
            weights, sampler_loss = self.objective.sampler(self.grid, self._clicks(output), self.generator)
        fragments = self._draw(output, weights)
        if not len(fragments):
            return None
        slots = None
        if self.model.memory.machine is not None:
            slots = self.model.memory.slots(output.trace, fragments.user, fragments.boundary - output.start)
        parts = self._ask(fragments, slots)
        figures = {f"{part.name}_loss": part.loss.item() for part in parts}
        figures |= {f"{part.name}_accuracy": part.accuracy.item() for part in parts}
        losses = [self.warmth * part.weight * part.loss for part in parts]
        if sampler_loss is not None:
            losses.append(sampler_loss)
            figures["sampler_loss"] = sampler_loss.item()
        return RehearsalLoss(torch.stack(losses).sum(), figures) if losses else None

    def _clicks(self, output: StretchOutput) -> Clicks:
        rows = output.impression
        return Clicks(
            user=output.queries.user,
            target=output.queries.tokens.detach(),
            num_earlier=self.batch.num_earlier.index_select(0, rows),
            label=self.batch.label.index_select(0, rows),
        )

    def _draw(self, output: StretchOutput, weights: Tensor | None) -> Fragments:
        """Draw, for each user, states of the stretch and older fragments to ask them for."""
        segment_length, length = self.objective.segment_length, self.config.fragment_length
        end = output.start + output.stretch.tokens.shape[1] - output.stretch.num_folded
        # The state that came in has no gradient, and no state before `whole` has folded a whole fragment.
        whole = -(-length // segment_length)
        first = max(output.start + 1, whole)
        last_U = (known_events(self.batch) // segment_length).clamp(max=end)
        user_F = (last_U >= first).nonzero().squeeze(1).repeat_interleave(self.config.fragments_per_user)
        boundary_F = first + draw_uniform(last_U.index_select(0, user_F) - first + 1, self.generator)
        available_F = count_fragments(boundary_F * segment_length, length)
        weight_FG = weights.index_select(0, user_F) if weights is not None else None
        place_F = self.objective.sampler.draw(weight_FG, available_F, self.generator)
        return Fragments(user_F, boundary_F, place_F, locate(self.batch, user_F, place_F, length))

    def _ask(self, fragments: Fragments, slots: Slots | None) -> list[_Part]:
        """Mask fragments; ask what is masked, and, of copies with strange events in them, which are true."""
        objective, (num, length) = self.objective, fragments.position.shape
        masking = draw_masking(num, length, objective.num_masked, self.generator)
        content_FBD, key_FB = self._content(fragments.position)
        first_FD, decoded_FBD = objective.decoder(content_FBD, masking.is_masked, slots)
        parts = []
        if objective.recollection is not None:
            true_FMD, true_key_FM = at_places(content_FBD, masking.masked), key_FB.gather(1, masking.masked)
            candidates, candidate_keys = self._candidates(true_FMD, true_key_FM)
            answers_FMD = at_places(decoded_FBD, masking.masked)
            loss, picked = objective.recollection(answers_FMD, true_FMD, true_key_FM, candidates, candidate_keys)
            parts.append(_Part("recollection", self.config.recollection_weight, loss, picked.float().mean()))
        if objective.familiarity is not None:
            strange = others_events(self.batch, fragments.user, objective.num_replaced, self.generator)
            if strange is not None:
                places_FR = masking.shown[:, : objective.num_replaced]
                mixed_FBD = replaced(content_FBD, places_FR, self._content(strange)[0])
                mixed_first_FD, _ = objective.decoder(mixed_FBD, masking.is_masked, slots)
                loss, told = objective.familiarity(first_FD, mixed_first_FD)
                parts.append(_Part("familiarity", self.config.familiarity_weight, loss, told))
        return parts

    def _content(self, position_FB: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors of events, and their keys."""
        events = {name: ids.index_select(0, position_FB.flatten()) for name, ids in self.batch.events.items()}
        content = self.model.embedding.content(events)
        return content.view(*position_FB.shape, -1), event_keys(events).view(position_FB.shape)

    def _candidates(self, true_FMD: Tensor, true_key_FM: Tensor) -> tuple[Tensor, Tensor]:
        """Return what true events are to be told from: [F or 1, C, D] and their keys."""
        if self.config.candidates == "fragment":
            return true_FMD, true_key_FM
        if self.config.candidates == "batch":
            vectors, keys = true_FMD.flatten(0, 1), true_key_FM.flatten()
            chosen = torch.randperm(len(keys), generator=self.generator, device=keys.device)[
                : self.config.num_candidates
            ]
            return vectors[chosen][None], keys[chosen][None]
        num_events = int(self.batch.event_lengths.sum())
        drawn = torch.full((1, self.config.num_candidates), num_events, device=true_key_FM.device)
        return self._content(draw_uniform(drawn, self.generator))
