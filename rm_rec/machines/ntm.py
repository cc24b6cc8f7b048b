"""The Neural Turing Machine's memory (Graves, Wayne and Danihelka 2014, arXiv 1410.5401, section 3).

A controller sees each event x, and what its read head found the event before, r. It steers two heads, one that reads
and one that writes. A head looks at the rows m_k by content, then moves by location; the numbers are the paper's:

    h    = tanh(A x + B r)                                  the controller; each figure below is a linear map of h
    c_k  = softmax_k(beta cos(key, m_k))                    beta = softplus(.)                          (5), (6)
    w    = g c + (1 - g) w                                  g = sigmoid(.): by content, or where it was (7)
    w_k  = sum_j w_j s_(k - j)                              s = softmax(.) over shifts, round the end   (8)
    w_k  = w_k^gamma / sum_j w_j^gamma                      gamma = 1 + softplus(.)                     (9)
    m_k <- m_k * (1 - w_k erase) + w_k add                  by the write head's w; erase = sigmoid(.)   (3), (4)

and r = sum_k w_k m_k by the read head's w, after the write (2). Chosen where the paper leaves it open: the
feed-forward controller (an LSTM's state would take a user's bytes from the rows), one head of each kind, rows that
begin learned (not zero: cosine), heads that begin on the first row. Chosen for training: keys and `add` begin as the
event itself, heads begin by content and without a shift, `erase` begins low. Clicks are read from the rows by the
model's reader; the read head serves the controller alone. Without it (`controller_reads`, off by default) the write
head is steered for all events at once, which is twice as fast.
Suffixes: U user, T event, H head, K slot, D slot dim, N shift, C controller.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, softplus

from rm_rec.config.machines import NtmMemory
from rm_rec.machines.addressing import erase_and_add, likeness
from rm_rec.machines.base import Slots, State, StateSpec
from rm_rec.machines.recurrence import EventLoopMachine

_SMALLEST_WEIGHT = 1e-6  # before the logarithm of equation 9: nothing is raised to a power from zero


class _Steering(NamedTuple):
    """What the controller says at an event, or (with an axis more) at each of some events."""

    key: Tensor  # of each head, as long as beta
    content: Tensor  # g of each head
    shift: Tensor
    power: Tensor  # gamma of each head
    erase: Tensor
    add: Tensor


class NtmMachine(EventLoopMachine):
    """Rows a user, written where a head that moves by content and location stands."""

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
        # focus @ places are the focus by each shift, side by side.
        shifts = range(-config.shift_range, config.shift_range + 1)
        places = torch.stack([torch.eye(config.num_slots).roll(shift, dims=1) for shift in shifts], dim=1)
        self.places: Tensor
        self.register_buffer("places", places.flatten(1), persistent=False)
        self._begin_by_content(config.keep_bias)

    @torch.no_grad()
    def _begin_by_content(self, keep_bias: float) -> None:
        """Let heads begin by looking for what is like the event, and the write head by adding the event there."""
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
        """The rows, and where each head stands."""
        return {"memory": (self.num_slots, self.slot_dim), "focus": (self.num_heads, self.num_slots)}

    def initial(self, num_users: int) -> State:
        """The learned starts, the same for every user."""
        return {
            "memory": self.start.expand(num_users, -1, -1),
            "focus": self.start_focus.softmax(dim=-1).expand(num_users, -1, -1),
        }

    def slots(self, state: State) -> Slots:
        """Each row is its own key and value, valid from the start."""
        memory = state["memory"]
        return Slots(memory, memory, torch.ones(memory.shape[:2], dtype=torch.bool, device=memory.device))

    def _ahead(self, state: State, segments: Tensor, valid: Tensor) -> Sequence[Tensor]:
        """Project all events, and steer where the controller reads nothing."""
        seen_UTC = self.from_event(segments).flatten(1, 2)
        return self._steered(seen_UTC) if self.from_read is None else (seen_UTC,)

    def _steered(self, seen: Tensor) -> _Steering:
        """Turn the controller's input, [..., C], into what it says."""
        key, strength, content, shift, power, erase, add = self.steer(torch.tanh(seen)).split(self.sizes, dim=-1)
        key = normalize(key.view(*key.shape[:-1], self.num_heads, self.slot_dim), dim=-1, eps=1e-6)
        return _Steering(
            key=key * softplus(strength)[..., None],
            content=torch.sigmoid(content)[..., None],
            shift=shift.view(*shift.shape[:-1], self.num_heads, 1, self.num_shifts).softmax(dim=-1),
            power=1.0 + softplus(power)[..., None],
            erase=torch.sigmoid(erase),
            add=add,
        )

    def _steered_by_reading(self, state: State, seen_UC: Tensor) -> _Steering:
        assert self.from_read is not None
        return self._steered(seen_UC + self.from_read((state["focus"][:, 1:] @ state["memory"]).squeeze(1)))

    def _step(self, state: State, valid_U1: Tensor, *given: Tensor) -> State:
        steering = _Steering(*given) if self.from_read is None else self._steered_by_reading(state, *given)
        moved_UHK = self._moved(state["memory"], state["focus"], steering)
        weight_UK = moved_UHK[:, 0].masked_fill(~valid_U1, 0.0)
        return {
            "memory": erase_and_add(state["memory"], weight_UK, steering.erase, steering.add),
            "focus": torch.where(valid_U1[..., None], moved_UHK, state["focus"]),
        }

    def _moved(self, memory_UKD: Tensor, focus_UHK: Tensor, steering: _Steering) -> Tensor:
        """Return where the heads stand next."""
        found_UHK = likeness(steering.key, memory_UKD).softmax(dim=-1)
        focused_UHK = torch.lerp(focus_UHK, found_UHK, steering.content)
        by_shift_UHNK = (focused_UHK @ self.places).view(*focus_UHK.shape[:2], self.num_shifts, self.num_slots)
        moved_UHK = (steering.shift @ by_shift_UHNK).squeeze(2).clamp(min=_SMALLEST_WEIGHT)
        # A power, normalised, is a softmax of logarithms, which cannot underflow to a division by zero.
        return torch.softmax(steering.power * moved_UHK.log(), dim=-1)
