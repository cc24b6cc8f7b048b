"""The Neural Turing Machine's memory (Graves, Wayne and Danihelka 2014, arXiv 1410.5401, section 3).

A controller receives each event x, and the vector r that its read head read at the previous event. It controls a read
head and a write head. A head's weights over the rows m_k are computed by content, then shifted by location; equation
numbers are the paper's, and (.) is a linear map of h:

    h    = tanh(A x + B r)                                  hidden state of the controller
    c_k  = softmax_k(beta cos(key, m_k))                    beta = softplus(.)                           (5), (6)
    w    = g c + (1 - g) w                                  g = sigmoid(.): content or previous weights  (7)
    w_k  = sum_j w_j s_(k - j)                              s = softmax(.) over circular shifts          (8)
    w_k  = w_k^gamma / sum_j w_j^gamma                      gamma = 1 + softplus(.)                      (9)
    m_k <- m_k * (1 - w_k erase) + w_k add                  w of the write head; erase = sigmoid(.)      (3), (4)

and r = sum_k w_k m_k with w of the read head, after the write (2). Our choices where the paper leaves it open: a
feed-forward controller (an LSTM's state would need bytes of the user's state), one head of each kind, learned initial
rows (the cosine is undefined for zeros), and heads that start on the first row. Initialisation for training: keys and
`add` are the event itself, heads select by content without a shift, and `erase` is small. The model's reader reads the
rows for clicks; the read head only serves the controller. Without it (`controller_reads`, off by default) the write
head's parameters are computed for all events at once, which is twice as fast.
Suffixes: U user, T event, H head, K slot, D slot dim, N shift, C controller.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, softplus

from rm_rec.config.machines import NtmMemory
from rm_rec.machines.addressing import erase_and_add, scaled_cosine
from rm_rec.machines.base import Slots, State, StateSpec
from rm_rec.machines.recurrence import EventLoopMachine

_SMALLEST_WEIGHT = 1e-6  # lower bound before the logarithm in equation 9


class _HeadParameters(NamedTuple):
    """The controller's outputs at an event or, with one more axis, at each of some events."""

    key: Tensor  # of each head, with norm beta
    content: Tensor  # g of each head
    shift: Tensor  # s of each head
    power: Tensor  # gamma of each head
    erase: Tensor
    add: Tensor


class NtmMachine(EventLoopMachine):
    """A matrix of rows per user, written to by a head that addresses rows by content and location."""

    config_type = NtmMemory

    def __init__(self, config: NtmMemory, token_dim: int) -> None:
        super().__init__()
        self.num_slots, self.slot_dim = config.num_slots, config.slot_dim
        self.num_heads = 2 if config.controller_reads else 1  # the write head, and the read head
        self.num_shifts = 2 * config.shift_range + 1
        self.start = nn.Parameter(0.1 * torch.randn(config.num_slots, config.slot_dim))
        self.start_focus = nn.Parameter(torch.zeros(self.num_heads, config.num_slots))
        self.from_event = nn.Linear(token_dim, config.controller_dim)
        self.from_read = (
            nn.Linear(config.slot_dim, config.controller_dim, bias=False) if config.controller_reads else None
        )
        heads, dim = self.num_heads, config.slot_dim
        self.sizes = [heads * dim, heads, heads, heads * self.num_shifts, heads, dim, dim]
        self.steer = nn.Linear(config.controller_dim, sum(self.sizes))
        # focus @ shifts is the concatenation of the focus shifted by each possible shift.
        offsets = range(-config.shift_range, config.shift_range + 1)
        shifts = torch.stack([torch.eye(config.num_slots).roll(offset, dims=1) for offset in offsets], dim=1)
        self.shifts: Tensor
        self.register_buffer("shifts", shifts.flatten(1), persistent=False)
        self._initialise(config.keep_bias)

    @torch.no_grad()
    def _initialise(self, keep_bias: float) -> None:
        """Initialise heads to select rows similar to the event, and the write head to add the event there."""
        for start in (self.from_event.bias, self.steer.weight, self.steer.bias):
            start.zero_()
        nn.init.eye_(self.from_event.weight)
        if self.from_read is not None:
            nn.init.zeros_(self.from_read.weight)
        key, *_, add = torch.split(self.steer.weight, self.sizes)
        for weight in (*torch.split(key, self.slot_dim), add):
            nn.init.eye_(weight)
        _, strength, content, shift, power, erase, _ = torch.split(self.steer.bias, self.sizes)
        strength.fill_(5.0)
        content.fill_(3.0)
        shift.view(self.num_heads, -1)[:, self.num_shifts // 2] = 5.0
        power.fill_(-2.0)
        erase.fill_(-keep_bias)
        self.start_focus[:, 0] = 5.0

    def state_spec(self) -> StateSpec:
        """Return the shapes: the rows, and each head's weights over them."""
        return {"memory": (self.num_slots, self.slot_dim), "focus": (self.num_heads, self.num_slots)}

    def initial(self, num_users: int) -> State:
        """Return the learned initial rows and weights, the same for every user."""
        return {
            "memory": self.start.expand(num_users, -1, -1),
            "focus": self.start_focus.softmax(dim=-1).expand(num_users, -1, -1),
        }

    def slots(self, state: State) -> Slots:
        """Return each row as key and value; all are valid."""
        memory = state["memory"]
        return Slots(memory, memory, torch.ones(memory.shape[:2], dtype=torch.bool, device=memory.device))

    def _inputs(self, state: State, segments: Tensor, valid: Tensor) -> Sequence[Tensor]:
        """Project all events; without a read head, compute the head parameters too."""
        projected_UTC = self.from_event(segments).flatten(1, 2)
        return self._head_parameters(projected_UTC) if self.from_read is None else (projected_UTC,)

    def _head_parameters(self, projected: Tensor) -> _HeadParameters:
        """Compute the controller's outputs from its projected inputs [..., C]."""
        key, strength, content, shift, power, erase, add = self.steer(torch.tanh(projected)).split(self.sizes, dim=-1)
        key = normalize(key.view(*key.shape[:-1], self.num_heads, self.slot_dim), dim=-1, eps=1e-6)
        return _HeadParameters(
            key=key * softplus(strength)[..., None],
            content=torch.sigmoid(content)[..., None],
            shift=shift.view(*shift.shape[:-1], self.num_heads, 1, self.num_shifts).softmax(dim=-1),
            power=1.0 + softplus(power)[..., None],
            erase=torch.sigmoid(erase),
            add=add,
        )

    def _head_parameters_with_read(self, state: State, projected_UC: Tensor) -> _HeadParameters:
        assert self.from_read is not None
        read_UD = (state["focus"][:, 1:] @ state["memory"]).squeeze(1)
        return self._head_parameters(projected_UC + self.from_read(read_UD))

    def _step(self, state: State, valid_U1: Tensor, *inputs: Tensor) -> State:
        heads = _HeadParameters(*inputs) if self.from_read is None else self._head_parameters_with_read(state, *inputs)
        focus_UHK = self._next_focus(state["memory"], state["focus"], heads)
        weight_UK = focus_UHK[:, 0].masked_fill(~valid_U1, 0.0)
        return {
            "memory": erase_and_add(state["memory"], weight_UK, heads.erase, heads.add),
            "focus": torch.where(valid_U1[..., None], focus_UHK, state["focus"]),
        }

    def _next_focus(self, memory_UKD: Tensor, focus_UHK: Tensor, heads: _HeadParameters) -> Tensor:
        """Return the heads' next weights over the rows."""
        content_UHK = scaled_cosine(heads.key, memory_UKD).softmax(dim=-1)
        gated_UHK = torch.lerp(focus_UHK, content_UHK, heads.content)
        by_shift_UHNK = (gated_UHK @ self.shifts).view(*focus_UHK.shape[:2], self.num_shifts, self.num_slots)
        shifted_UHK = (heads.shift @ by_shift_UHNK).squeeze(2).clamp(min=_SMALLEST_WEIGHT)
        # A normalised power is a softmax of logarithms, which cannot underflow to a division by zero.
        return torch.softmax(heads.power * shifted_UHK.log(), dim=-1)
