"""Events with learned spans, after which they expire.

Source: Not All Memories are Created Equal: Learning to Forget by Expiring (Sukhbaatar et al., ICML 2021, section 4):
event i, with vector x_i, has a span e_i, and its attention weight is masked by m_i:

    e_i = L sigmoid(w . x_i + b)                          L: the longest span, in events
    m_i = clamp(1 + (e_i - age_i) / R, 0, 1)              R: length of the ramp, on which spans get gradients
    attention = m_i exp(logit_i) / sum_j m_j exp(logit_j)
    loss + alpha sum_i e_i / T                            T: the number of events summed over

Differences, for a state of fixed size: only K events are kept. If more are alive (m_i > 0), those with the smallest
remaining span e_i - age_i are dropped; the state counts them. The loss is over the events that are alive at a stretch's
end, since the others are gone. log m_i is the slot's `log_weight`, so that every reader attends as above. Age is the
number of later folded events. An empty slot is an expired event. Events are kept in their order, oldest first; key and
value of a slot are [x; log(1 + age)]. Spans are stored as fractions of L. w is initialised to large random values, so
that some events outlive others from the start: only events that are kept can teach which ones to keep.
Suffixes: U user, S segment, N event of a segment, K slot, J slot or event, X columns of an event.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from rm_rec.config.machines import ExpireSpan
from rm_rec.machines.base import MemoryMachine, Slots, State, StateSpec, StateTrace


class ExpireSpanMachine(MemoryMachine):
    """Keeps the events with the largest remaining spans, and counts those that were dropped before they expired."""

    config_type = ExpireSpan
    exact_parts = ("age", "written_and_forced")

    def __init__(self, config: ExpireSpan, token_dim: int) -> None:
        super().__init__()
        self.config, self.token_dim = config, token_dim
        self.slot_dim = token_dim + 1
        self.span = nn.Linear(token_dim, 1)
        nn.init.normal_(self.span.weight, std=2.0 / math.sqrt(token_dim))
        nn.init.constant_(self.span.bias, config.span_bias)

    def state_spec(self) -> StateSpec:
        """Return the shapes: events, spans (as fractions), ages; numbers of events written, and dropped while alive."""
        num_slots = self.config.num_slots
        return {
            "events": (num_slots, self.token_dim),
            "span": (num_slots,),
            "age": (num_slots,),
            "written_and_forced": (2,),
        }

    def initial(self, num_users: int) -> State:
        """Return expired events of span 0, each older than the next."""
        state = {name: self.span.bias.new_zeros(num_users, *shape) for name, shape in self.state_spec().items()}
        num_slots = self.config.num_slots
        expired = self.config.ramp + torch.arange(num_slots, 0, -1, device=state["age"].device)
        return state | {"age": state["age"] + expired}

    def scan(self, state: State, segments: Tensor, valid: Tensor) -> StateTrace:
        """Compute the spans of all events at once; only the selection of events is a loop."""
        span_USN1 = torch.sigmoid(self.span(segments))
        number_USN = valid.to(segments.dtype).cumsum(dim=2)
        age_USN = number_USN[..., -1:] - number_USN
        new_USNX = torch.cat([segments, span_USN1, age_USN[..., None]], dim=-1)
        slots_UKX = torch.cat([state["events"], state["span"][..., None], state["age"][..., None]], dim=-1)
        only_age_X = functional.pad(slots_UKX.new_ones(1), (self.token_dim + 1, 0))
        boundaries, dropped = [slots_UKX], []
        for new_UNX, valid_UN, num_U in zip(
            new_USNX.unbind(1), valid.unbind(1), number_USN[..., -1].unbind(1), strict=True
        ):
            aged_UKX = boundaries[-1] + num_U[:, None, None] * only_age_X
            slots_UKX, dropped_U = self._select(torch.cat([aged_UKX, new_UNX], dim=1), valid_UN)
            boundaries.append(slots_UKX)
            dropped.append(dropped_U)
        trace = torch.stack(boundaries, dim=1)
        counts = [state["written_and_forced"][:, None]]
        if dropped:
            counts.append(torch.stack([number_USN[..., -1], torch.stack(dropped, dim=1)], dim=-1))
        return {
            "events": trace[..., :-2],
            "span": trace[..., -2],
            "age": trace[..., -1],
            "written_and_forced": torch.cat(counts, dim=1).cumsum(dim=1),
        }

    def slots(self, state: State) -> Slots:
        """Return each event, with its age, as key and value, weighted by its mask m; valid until it has expired."""
        mask = self._mask(state)
        slots = torch.cat([state["events"], state["age"].log1p()[..., None]], dim=-1)
        return Slots(slots, slots, mask > 0, mask.clamp(min=1e-6).log())

    def penalty(self, state: State) -> Float[Tensor, ""]:
        """Return the weighted mean span of each user's events that are alive."""
        alive = self._mask(state) > 0
        fractions = state["span"].masked_fill(~alive, 0.0).sum(dim=1) / alive.sum(dim=1).clamp(min=1)
        return self.config.span_weight * self.config.max_span * fractions.sum() / max(len(fractions), 1)

    def _mask(self, state: State) -> Tensor:
        remaining = self.config.max_span * state["span"] - state["age"]
        return (1.0 + remaining / self.config.ramp).clamp(0.0, 1.0)

    def _select(self, all_UJX: Tensor, valid_UN: Tensor) -> tuple[Tensor, Tensor]:
        """Return the events with the largest remaining spans, in their order, and how many were dropped alive."""
        num_slots = self.config.num_slots
        valid_UJ = functional.pad(valid_UN, (num_slots, 0), value=True)
        remaining_UJ = (self.config.max_span * all_UJX[..., -2] - all_UJX[..., -1]).detach()
        remaining_UJ = remaining_UJ.masked_fill(~valid_UJ, -math.inf)
        best_UJ, index_UJ = remaining_UJ.sort(dim=1, descending=True, stable=True)
        selected_UK = index_UJ[:, :num_slots].sort(dim=1).values
        dropped_U = (best_UJ[:, num_slots:] > -self.config.ramp).sum(dim=1).to(all_UJX.dtype)
        return all_UJX.gather(1, selected_UK[..., None].expand(-1, -1, all_UJX.shape[2])), dropped_U
