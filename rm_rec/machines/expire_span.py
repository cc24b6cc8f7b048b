"""Events that know how long they are worth keeping.

Source: Not All Memories are Created Equal: Learning to Forget by Expiring (Sukhbaatar et al., ICML 2021, section 4):
event i, with vector x_i, has a span e_i, and is read by as much as is left of it:

    e_i = L sigmoid(w . x_i + b)                          L: the longest span, in events
    m_i = clamp(1 + (e_i - age_i) / R, 0, 1)              R: the ramp over which it expires, and over which spans learn
    attention = m_i exp(logit_i) / sum_j m_j exp(logit_j)
    loss + alpha sum_i e_i / T                            T: the number of events summed over

What differs, for a state of fixed size: only K events are kept. Where more are alive, those with the smallest
remainder e_i - age_i go first; how many went while something was left of them is counted in the state. The loss is over
the events that are alive at a stretch's end, since the others are gone. log m_i is the slot's `log_weight`, so that any
reader attends as above. Age is the number of folded events that came after. A slot that nothing was written to is an
event that has expired. Events are kept in their order, oldest first; a slot is [x; log(1 + age)], as key and as value.
Spans are kept as shares of L. w begins random, not small, so that some events outlive others from the start: which to
keep is learnt from those that were kept.
Suffixes: U user, S segment, N event of a segment, K slot, J slot or event, X what is kept of an event.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from rm_rec.config.machines import ExpireSpan
from rm_rec.machines.base import MemoryMachine, Slots, State, StateSpec, StateTrace


class ExpireSpanMachine(MemoryMachine):
    """Keeps the events whose learned spans have most left, and counts those it had to drop before their time."""

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
        """Events, their spans (shares of the longest) and ages; how many were written, how many evicted while alive."""
        num_slots = self.config.num_slots
        return {
            "events": (num_slots, self.token_dim),
            "span": (num_slots,),
            "age": (num_slots,),
            "written_and_forced": (2,),
        }

    def initial(self, num_users: int) -> State:
        """Events of no span that have expired already, each a little older than the next."""
        state = {name: self.span.bias.new_zeros(num_users, *shape) for name, shape in self.state_spec().items()}
        num_slots = self.config.num_slots
        expired = self.config.ramp + torch.arange(num_slots, 0, -1, device=state["age"].device)
        return state | {"age": state["age"] + expired}

    def scan(self, state: State, segments: Tensor, valid: Tensor) -> StateTrace:
        """Give all events their spans at once; only what is kept is a loop."""
        span_USN1 = torch.sigmoid(self.span(segments))
        number_USN = valid.to(segments.dtype).cumsum(dim=2)
        age_USN = number_USN[..., -1:] - number_USN
        new_USNX = torch.cat([segments, span_USN1, age_USN[..., None]], dim=-1)
        kept_UKX = torch.cat([state["events"], state["span"][..., None], state["age"][..., None]], dim=-1)
        only_age_X = functional.pad(kept_UKX.new_ones(1), (self.token_dim + 1, 0))
        kept, forced = [kept_UKX], []
        for new_UNX, valid_UN, num_U in zip(
            new_USNX.unbind(1), valid.unbind(1), number_USN[..., -1].unbind(1), strict=True
        ):
            aged_UKX = kept[-1] + num_U[:, None, None] * only_age_X
            kept_UKX, forced_U = self._keep(torch.cat([aged_UKX, new_UNX], dim=1), valid_UN)
            kept.append(kept_UKX)
            forced.append(forced_U)
        trace = torch.stack(kept, dim=1)
        counts = [state["written_and_forced"][:, None]]
        if forced:
            counts.append(torch.stack([number_USN[..., -1], torch.stack(forced, dim=1)], dim=-1))
        return {
            "events": trace[..., :-2],
            "span": trace[..., -2],
            "age": trace[..., -1],
            "written_and_forced": torch.cat(counts, dim=1).cumsum(dim=1),
        }

    def slots(self, state: State) -> Slots:
        """Show each event with its age, weighing as much as is left of it; valid until nothing is."""
        left = self._left(state)
        shown = torch.cat([state["events"], state["age"].log1p()[..., None]], dim=-1)
        return Slots(shown, shown, left > 0, left.clamp(min=1e-6).log())

    def penalty(self, state: State) -> Float[Tensor, ""]:
        """Return the weighted mean span of each user's events that are alive."""
        alive = self._left(state) > 0
        shares = state["span"].masked_fill(~alive, 0.0).sum(dim=1) / alive.sum(dim=1).clamp(min=1)
        return self.config.span_weight * self.config.max_span * shares.sum() / max(len(shares), 1)

    def _left(self, state: State) -> Tensor:
        remainder = self.config.max_span * state["span"] - state["age"]
        return (1.0 + remainder / self.config.ramp).clamp(0.0, 1.0)

    def _keep(self, all_UJX: Tensor, valid_UN: Tensor) -> tuple[Tensor, Tensor]:
        """Keep the events with the largest remainders in their order; count those dropped that were alive."""
        num_slots = self.config.num_slots
        there_UJ = functional.pad(valid_UN, (num_slots, 0), value=True)
        remainder_UJ = (self.config.max_span * all_UJX[..., -2] - all_UJX[..., -1]).detach()
        remainder_UJ = remainder_UJ.masked_fill(~there_UJ, -math.inf)
        best_UJ, index_UJ = remainder_UJ.sort(dim=1, descending=True, stable=True)
        kept_UK = index_UJ[:, :num_slots].sort(dim=1).values
        forced_U = (best_UJ[:, num_slots:] > -self.config.ramp).sum(dim=1).to(all_UJX.dtype)
        return all_UJX.gather(1, kept_UK[..., None].expand(-1, -1, all_UJX.shape[2])), forced_U
