"""A memory of many interests (MIMN, Pi et al., KDD 2019, arXiv 1905.09248).

A GRU controller runs over the events x; (.) is a linear map of its hidden state h:

    r_k  = softmax_k(beta cos(key, m_k))                    weights of the read head, key = tanh(.)
    w_k  = softmax_k(beta cos(key, m_k))                    weights of the write head
    w   <- w P,  P = softmax_rows(W g + B)                  redistributed by g, how much each row was written to before
    m_k <- m_k * (1 - w_k erase) + w_k add                  erase = sigmoid(.), add = tanh(.)
    s_k <- GRU([x, m_k], s_k)                               induction unit of the num_channels rows of largest r_k
    penalty = weight K sum_k (g_k - 1 / K)^2                memory utilization regularization

The slots are the rows m_k, followed by their channels s_k. Our choices: g_k is the fraction of all writes so far that
went to row k, not their sum, which would grow without bound over a lifelong history (the penalty is 0 for even use and
at most weight (K - 1)); P is computed once per segment, without gradient through g, as in the authors' code; B is
initialised to a multiple of the identity, since a uniform P would keep all rows equal; initial rows and channels are
learned. Initialisation for training: keys, `add` and the GRUs' candidates are the event itself, `erase` is small, and
channels keep their state. The model's reader reads the slots for clicks. If the controller does not receive the read
head's output (`controller_reads`, off by default), it is one pass of PyTorch's GRU.
Suffixes: U user, S segment, T event, H head, K slot, D slot dim, C controller, I channel that is updated.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, softplus

from rm_rec.config.machines import MimnMemory
from rm_rec.machines.addressing import SMALLEST_NORM, erase_and_add, scaled_cosine
from rm_rec.machines.base import Slots, State, StateSpec
from rm_rec.machines.recurrence import EventLoopMachine, initialise_to_add, real_events_first, run_gru, select_rows

_HEADS = 2  # read, write


class _HeadParameters(NamedTuple):
    """The controller's outputs at an event or, with one more axis, at each of some events."""

    hidden: Tensor  # the controller's hidden state
    key: Tensor  # of each head, with norm beta
    erase: Tensor
    add: Tensor


class MimnMachine(EventLoopMachine):
    """A matrix of rows per user, evenly written to, and a recurrent unit for each row, which follows its interest."""

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
        self._initialise(config.keep_bias)

    @torch.no_grad()
    def _initialise(self, keep_bias: float) -> None:
        """Initialise heads to select rows similar to the last events, and to add those."""
        initialise_to_add(self.controller, -2.0, to_itself=False)
        initialise_to_add(self.induce, keep_bias, to_itself=True)
        for weight in (self.steer.weight, self.steer.bias, self.even_out.weight):
            weight.zero_()
        key, _, _, add = torch.split(self.steer.weight, self.sizes)
        for weight in (*torch.split(key, self.slot_dim), add):
            nn.init.eye_(weight)
        _, strength, erase, _ = torch.split(self.steer.bias, self.sizes)
        strength.fill_(5.0)
        erase.fill_(-keep_bias)
        self.even_out.bias.copy_(5.0 * torch.eye(self.num_slots).flatten())

    def state_spec(self) -> StateSpec:
        """Return the shapes: rows, channels, how much was written to each row, and the controller's hidden state."""
        rows = (self.num_slots, self.slot_dim)
        parts: StateSpec = {
            "memory": rows,
            "channels": rows,
            "usage": (self.num_slots,),
            "controller": (self.controller_dim,),
        }
        return parts | ({"read": (self.slot_dim,)} if self.controller_reads else {})

    def initial(self, num_users: int) -> State:
        """Return the learned initial rows and channels, the same for every user, and zeros for everything else."""
        zeros = {name: self.start.new_zeros(num_users, *shape) for name, shape in self.state_spec().items()}
        return zeros | {
            "memory": self.start.expand(num_users, -1, -1),
            "channels": self.start_channels.expand(num_users, -1, -1),
        }

    def slots(self, state: State) -> Slots:
        """Return the rows and then their channels, each as key and value; all are valid."""
        slots = torch.cat([state["memory"], state["channels"]], dim=1)
        return Slots(slots, slots, torch.ones(slots.shape[:2], dtype=torch.bool, device=slots.device))

    def penalty(self, state: State) -> Tensor:
        """Return the weighted unevenness of writes to rows, averaged over users with writes; 0 for even writes."""
        usage = state["usage"]
        total = usage.sum(dim=1, keepdim=True)
        uneven = (usage / total.clamp(min=1.0) - 1.0 / self.num_slots).square().sum(dim=1)
        written = total[:, 0] > 0
        uneven = uneven.masked_fill(~written, 0.0).sum() / written.sum().clamp(min=1)
        return self.utilization_weight * self.num_slots * uneven

    def _inputs(self, state: State, segments: Tensor, valid: Tensor) -> Sequence[Tensor]:
        """Return the events; if the controller does not read, its outputs for all events too."""
        events_UTD = segments.flatten(1, 2)
        if self.controller_reads:
            return (events_UTD,)
        return (events_UTD, *self._head_parameters(self._hidden_states(state["controller"], segments, valid)))

    def _segment_inputs(self, state: State) -> Sequence[Tensor]:
        """Return P, [U, K, K], which redistributes writes by how much was written to each row."""
        usage_UK = state["usage"]
        fraction_UK = (usage_UK / usage_UK.sum(dim=1, keepdim=True).clamp(min=1.0)).detach()
        return (torch.softmax(self.even_out(fraction_UK).view(len(usage_UK), self.num_slots, self.num_slots), dim=-1),)

    def _hidden_states(self, initial_UC: Tensor, segments: Tensor, valid: Tensor) -> Tensor:
        """Return the controller's hidden state after each event, [U, T, C]; padding leaves it unchanged."""
        hidden_UTC = run_gru(self.controller, initial_UC, real_events_first(segments, valid))
        return select_rows(hidden_UTC, valid.flatten(1).cumsum(dim=1))

    def _head_parameters(self, hidden: Tensor) -> _HeadParameters:
        """Compute the controller's outputs from its hidden states [..., C]."""
        key, strength, erase, add = self.steer(hidden).split(self.sizes, dim=-1)
        key = normalize(torch.tanh(key).view(*key.shape[:-1], _HEADS, self.slot_dim), dim=-1, eps=SMALLEST_NORM)
        return _HeadParameters(hidden, key * softplus(strength)[..., None], torch.sigmoid(erase), torch.tanh(add))

    def _head_parameters_with_read(self, state: State, event_UD: Tensor) -> _HeadParameters:
        inputs = torch.cat([event_UD, state["read"]], dim=-1)
        return self._head_parameters(torch.gru_cell(inputs, state["controller"], *self.controller.all_weights[0]))

    def _step(self, state: State, valid_U1: Tensor, *inputs: Tensor) -> State:
        event_UD, *outputs, even_UKK = inputs
        heads = self._head_parameters_with_read(state, event_UD) if self.controller_reads else _HeadParameters(*outputs)
        memory, usage = state["memory"], state["usage"]
        read_UK, write_UK = scaled_cosine(heads.key, memory).softmax(dim=-1).unbind(1)
        weight_UK = torch.bmm(write_UK[:, None], even_UKK).squeeze(1).masked_fill(~valid_U1, 0.0)
        written = erase_and_add(memory, weight_UK, heads.erase, heads.add)
        after = {
            "memory": written,
            "channels": self._next_channels(state["channels"], written, event_UD, read_UK, valid_U1),
            "usage": usage + weight_UK,
            "controller": torch.where(valid_U1, heads.hidden, state["controller"]),
        }
        if self.controller_reads:
            after["read"] = torch.where(valid_U1, torch.bmm(read_UK[:, None], memory).squeeze(1), state["read"])
        return after

    def _next_channels(
        self, channels_UKD: Tensor, memory_UKD: Tensor, event_UD: Tensor, read_UK: Tensor, valid_U1: Tensor
    ) -> Tensor:
        """Update the channels of the rows with the largest weights of the read head."""
        top_UI = read_UK.topk(self.num_channels, dim=1).indices
        top_UID = top_UI[..., None].expand(-1, -1, self.slot_dim)
        before_UID = channels_UKD.gather(1, top_UID)
        event_UID = event_UD[:, None].expand(-1, self.num_channels, -1)
        input_UID = torch.cat([event_UID, memory_UKD.gather(1, top_UID)], dim=-1)
        after_UID = self.induce(input_UID.flatten(0, 1), before_UID.flatten(0, 1)).view_as(before_UID)
        return channels_UKD.scatter(1, top_UID, torch.where(valid_U1[..., None], after_UID, before_UID))
