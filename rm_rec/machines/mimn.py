"""A memory of many interests (MIMN, Pi et al., KDD 2019, arXiv 1905.09248).

A gated recurrent controller runs over the events x; each figure of a head is a linear map of its state h:

    r_k  = softmax_k(beta cos(key, m_k))                    the read head's weights, key = tanh(.)
    w_k  = softmax_k(beta cos(key, m_k))                    the write head's
    w   <- w P,  P = softmax_rows(W g + B)                  evened out, by how much each row was written to before, g
    m_k <- m_k * (1 - w_k erase) + w_k add                  erase = sigmoid(.), add = tanh(.)
    s_k <- GRU([x, m_k], s_k)                               for the num_channels rows of largest r_k: the induction unit
    penalty = weight K sum_k (g_k - 1 / K)^2                memory utilization regularization

The slots are the rows m_k, and then their channels s_k. Chosen here: g_k is the share of row k in all writes so far,
not their sum, which a lifelong history would let grow without bound (the penalty is 0 for even use, K - 1 at worst); P
is found once a segment, and takes no gradient through g, as in the authors' code; B begins as a multiple of the
identity, as a uniform P would make all rows equal for ever; rows and channels begin learned. Chosen for training:
keys, `add` and the units' candidates begin as the event itself, `erase` begins low, channels begin by keeping. Clicks
are read from the slots by the model's reader. Without the answer of the read head in the controller's input
(`controller_reads`, off by default) the controller is one pass of PyTorch's GRU.
Suffixes: U user, S segment, T event, H head, K slot, D slot dim,
C controller, I channel that moves.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, softplus

from rm_rec.config.machines import MimnMemory
from rm_rec.machines.addressing import SMALLEST_NORM, erase_and_add, likeness
from rm_rec.machines.base import Slots, State, StateSpec
from rm_rec.machines.recurrence import EventLoopMachine, begin_by_adding, path, real_events_first, taken

_HEADS = 2  # read, write


class _Steering(NamedTuple):
    """What the controller says at an event, or (with an axis more) at each of some events."""

    hidden: Tensor  # its own state
    key: Tensor  # of each head, as long as beta
    erase: Tensor
    add: Tensor


class MimnMachine(EventLoopMachine):
    """Rows a user, evenly written to, and for each a recurrent unit that follows what it is about."""

    config_type = MimnMemory
    exact_parts = ("usage",)

    def __init__(self, config: MimnMemory, token_dim: int) -> None:
        super().__init__()
        self.num_slots, self.slot_dim, self.controller_dim = config.num_slots, config.slot_dim, config.controller_dim
        self.num_channels = config.num_channels
        self.controller_reads = config.controller_reads
        self.utilization_weight = config.utilization_weight
        self.start = nn.Parameter(0.1 * torch.randn(config.num_slots, config.slot_dim))
        self.start_channels = nn.Parameter(0.1 * torch.randn(config.num_slots, config.slot_dim))
        input_dim = token_dim + (config.slot_dim if config.controller_reads else 0)
        self.controller = nn.GRU(input_dim, config.controller_dim, batch_first=True)
        self.sizes = [_HEADS * config.slot_dim, _HEADS, config.slot_dim, config.slot_dim]
        self.steer = nn.Linear(config.controller_dim, sum(self.sizes))
        self.even_out = nn.Linear(config.num_slots, config.num_slots**2)
        self.induce = nn.GRUCell(token_dim + config.slot_dim, config.slot_dim)
        self._begin_near_the_tokens(config.keep_bias)

    @torch.no_grad()
    def _begin_near_the_tokens(self, keep_bias: float) -> None:
        """Let heads begin by looking for what is like the last events, and by adding those."""
        begin_by_adding(self.controller, -2.0, to_itself=False)
        begin_by_adding(self.induce, keep_bias, to_itself=True)
        for start in (self.steer.weight, self.steer.bias, self.even_out.weight):
            start.zero_()
        key, _, _, add = torch.split(self.steer.weight, self.sizes)
        for weight in (*torch.split(key, self.slot_dim), add):
            nn.init.eye_(weight)
        _, strength, erase, _ = torch.split(self.steer.bias, self.sizes)
        strength.fill_(5.0)
        erase.fill_(-keep_bias)
        self.even_out.bias.copy_(5.0 * torch.eye(self.num_slots).flatten())

    def state_spec(self) -> StateSpec:
        """The rows, their channels, how much was written to each, and the controller's state."""
        rows = (self.num_slots, self.slot_dim)
        parts: StateSpec = {
            "memory": rows,
            "channels": rows,
            "usage": (self.num_slots,),
            "controller": (self.controller_dim,),
        }
        return parts | ({"read": (self.slot_dim,)} if self.controller_reads else {})

    def initial(self, num_users: int) -> State:
        """The learned starts, the same for every user; nothing written, nothing read."""
        zeros = {name: self.start.new_zeros(num_users, *shape) for name, shape in self.state_spec().items()}
        return zeros | {
            "memory": self.start.expand(num_users, -1, -1),
            "channels": self.start_channels.expand(num_users, -1, -1),
        }

    def slots(self, state: State) -> Slots:
        """Show the rows and then their channels, each its own key and value, valid from the start."""
        slots = torch.cat([state["memory"], state["channels"]], dim=1)
        return Slots(slots, slots, torch.ones(slots.shape[:2], dtype=torch.bool, device=slots.device))

    def penalty(self, state: State) -> Tensor:
        """Return how unevenly rows are written to, over users who have written: 0 if evenly."""
        usage = state["usage"]
        total = usage.sum(dim=1, keepdim=True)
        uneven = (usage / total.clamp(min=1.0) - 1.0 / self.num_slots).square().sum(dim=1)
        written = total[:, 0] > 0
        uneven = uneven.masked_fill(~written, 0.0).sum() / written.sum().clamp(min=1)
        return self.utilization_weight * self.num_slots * uneven

    def _ahead(self, state: State, segments: Tensor, valid: Tensor) -> Sequence[Tensor]:
        """Lay the events in a row, and run the controller over them where it reads nothing."""
        events_UTD = segments.flatten(1, 2)
        if self.controller_reads:
            return (events_UTD,)
        return (events_UTD, *self._steered(self._controlled(state["controller"], segments, valid)))

    def _of_segment(self, state: State) -> Sequence[Tensor]:
        """Return where what is meant for each row goes (P), by how much was written to each, [U, K, K]."""
        usage_UK = state["usage"]
        share_UK = (usage_UK / usage_UK.sum(dim=1, keepdim=True).clamp(min=1.0)).detach()
        return (torch.softmax(self.even_out(share_UK).view(len(usage_UK), self.num_slots, self.num_slots), dim=-1),)

    def _controlled(self, start_UC: Tensor, segments: Tensor, valid: Tensor) -> Tensor:
        """Return the controller's state after each event, [U, T, C]; after padding it is what it was."""
        path_UTC = path(self.controller, start_UC, real_events_first(segments, valid))
        return taken(path_UTC, valid.flatten(1).cumsum(dim=1))

    def _steered(self, hidden: Tensor) -> _Steering:
        """Turn the controller's state, [..., C], into what it says."""
        key, strength, erase, add = self.steer(hidden).split(self.sizes, dim=-1)
        key = normalize(torch.tanh(key).view(*key.shape[:-1], _HEADS, self.slot_dim), dim=-1, eps=SMALLEST_NORM)
        return _Steering(hidden, key * softplus(strength)[..., None], torch.sigmoid(erase), torch.tanh(add))

    def _steered_by_reading(self, state: State, event_UD: Tensor) -> _Steering:
        seen = torch.cat([event_UD, state["read"]], dim=-1)
        return self._steered(torch.gru_cell(seen, state["controller"], *self.controller.all_weights[0]))

    def _step(self, state: State, valid_U1: Tensor, *given: Tensor) -> State:
        event_UD, *steered, even_UKK = given
        steering = self._steered_by_reading(state, event_UD) if self.controller_reads else _Steering(*steered)
        memory, usage = state["memory"], state["usage"]
        read_UK, write_UK = likeness(steering.key, memory).softmax(dim=-1).unbind(1)
        weight_UK = torch.bmm(write_UK[:, None], even_UKK).squeeze(1).masked_fill(~valid_U1, 0.0)
        written = erase_and_add(memory, weight_UK, steering.erase, steering.add)
        after = {
            "memory": written,
            "channels": self._induced(state["channels"], written, event_UD, read_UK, valid_U1),
            "usage": usage + weight_UK,
            "controller": torch.where(valid_U1, steering.hidden, state["controller"]),
        }
        if self.controller_reads:
            after["read"] = torch.where(valid_U1, torch.bmm(read_UK[:, None], memory).squeeze(1), state["read"])
        return after

    def _induced(
        self, channels_UKD: Tensor, memory_UKD: Tensor, event_UD: Tensor, read_UK: Tensor, valid_U1: Tensor
    ) -> Tensor:
        """Move the channels of the rows that the read head looked at most."""
        top_UI = read_UK.topk(self.num_channels, dim=1).indices
        top_UID = top_UI[..., None].expand(-1, -1, self.slot_dim)
        before_UID = channels_UKD.gather(1, top_UID)
        event_UID = event_UD[:, None].expand(-1, self.num_channels, -1)
        seen_UID = torch.cat([event_UID, memory_UKD.gather(1, top_UID)], dim=-1)
        moved = self.induce(seen_UID.flatten(0, 1), before_UID.flatten(0, 1)).view_as(before_UID)
        return channels_UKD.scatter(1, top_UID, torch.where(valid_U1[..., None], moved, before_UID))
