"""Learned query tokens that compress segment after segment by attention, and carry over.

After compressors of long histories that read a segment into a few learned tokens, from which the next segment's read
goes on: C-Former, VISTA (Meta, arXiv 2510.22049) and PerSRec (Meta, arXiv 2601.03479), as described: their equations
could not be read in full, so each choice is stated here. Token k is m_k = RMS(a_k + c_k), with a_k a learned query and
c_k what a user's token has gathered, at first 0; a segment's events are f_n; x_j runs over [m_1 ... m_K; f_1 ... f_N]:

    r_k = sum_j softmax_j(q(m_k) . k(x_j) / sqrt(D) + [n_k if x_j is a token]) v(x_j)
    h_k = g_k c_k + r_k                                           g_k = sigmoid(keep_k): what keeps c_k bounded
    c_k <- h_k + W_2 gelu(W_1 RMS(a_k + h_k))

A reader sees a_k + c_k as key and c_k as value. RMS divides by the root of the mean square, and is applied where tokens
are read, not where they are kept: with c_k itself normalised at each write, training never found the planted event of
tests/rm_rec/test_learning.py (AUC .5 in 3 starts, whatever the scale and sharpness); as it is, it does (.84 to 1).
Tokens and events have keys and values of their own. Those of events begin as the identity and the queries as
2 sqrt(D) times it, so that each token begins by gathering events like itself, sharply (without the 2 one start in three
did not find it). Those of tokens, and W_2, begin at zero: tokens then take a share of the softmax and add nothing; n_k
is for learning how much the events must weigh together to be read.
Suffixes: U user, S segment, N event, K token, J token or event, D dim.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from rm_rec.config.machines import LearnedQueries
from rm_rec.machines.base import MemoryMachine, Slots, State, StateSpec, StateTrace


class LearnedQueriesMachine(MemoryMachine):
    """A few tokens a user; each attends to all of them and to the segment, and adds what it reads."""

    config_type = LearnedQueries

    def __init__(self, config: LearnedQueries, token_dim: int) -> None:
        super().__init__()
        dim = self.slot_dim = config.slot_dim
        self.num_slots = config.num_slots
        self.learned = nn.Parameter(torch.randn(config.num_slots, dim))
        self.query = nn.Linear(dim, dim, bias=False)
        self.event_key = nn.Linear(token_dim, dim, bias=False)
        self.event_value = nn.Linear(token_dim, dim, bias=False)
        self.token_key_value = nn.Linear(dim, 2 * dim, bias=False)
        self.token_logit = nn.Parameter(torch.zeros(config.num_slots, 1))
        self.keep = nn.Parameter(torch.full((config.num_slots, 1), config.keep_bias))
        self.widen = nn.Linear(dim, config.feedforward_dim)
        self.narrow = nn.Linear(config.feedforward_dim, dim)
        for projection in (self.query, self.event_key, self.event_value):
            nn.init.eye_(projection.weight)
        with torch.no_grad():
            self.query.weight.mul_(2.0 * math.sqrt(dim))
        for weight in (self.token_key_value.weight, self.narrow.weight, self.narrow.bias):
            nn.init.zeros_(weight)

    def state_spec(self) -> StateSpec:
        """What each token has gathered."""
        return {"content": (self.num_slots, self.slot_dim)}

    def initial(self, num_users: int) -> State:
        """Nothing yet."""
        return {"content": self.learned.new_zeros(num_users, self.num_slots, self.slot_dim)}

    def write(self, state: State, segment: Tensor, valid: Tensor) -> State:
        """Compress one segment into each user's tokens."""
        return {"content": self._compress(state["content"], self.event_key(segment), self.event_value(segment), valid)}

    def scan(self, state: State, segments: Tensor, valid: Tensor) -> StateTrace:
        """Project all segments at once; only the recurrence is a loop."""
        keys, values = self.event_key(segments).unbind(1), self.event_value(segments).unbind(1)
        content = [state["content"]]
        for key, value, real in zip(keys, values, valid.unbind(1), strict=True):
            content.append(self._compress(content[-1], key, value, real))
        return {"content": torch.stack(content, dim=1)}

    def slots(self, state: State) -> Slots:
        """Show each token with its query as key, and what it has gathered as value; valid from the start."""
        content = state["content"]
        valid = torch.ones(content.shape[:2], dtype=torch.bool, device=content.device)
        return Slots(content + self.learned, content, valid)

    def _compress(self, content_UKD: Tensor, key_UND: Tensor, value_UND: Tensor, valid_UN: Tensor) -> Tensor:
        tokens_UKD = _normalised(self.learned + content_UKD)
        own_key_UKD, own_value_UKD = self.token_key_value(tokens_UKD).chunk(2, dim=-1)
        query_UKD = self.query(tokens_UKD) / math.sqrt(self.slot_dim)
        of_tokens_UKK = query_UKD @ own_key_UKD.transpose(1, 2) + self.token_logit
        of_events_UKN = (query_UKD @ key_UND.transpose(1, 2)).masked_fill(~valid_UN[:, None], -math.inf)
        share_UKJ = torch.cat([of_tokens_UKK, of_events_UKN], dim=2).softmax(dim=-1)
        read_UKD = share_UKJ @ torch.cat([own_value_UKD, value_UND], dim=1)
        held_UKD = torch.sigmoid(self.keep) * content_UKD + read_UKD
        hidden_UKD = functional.gelu(self.widen(_normalised(self.learned + held_UKD)))
        compressed_UKD = held_UKD + self.narrow(hidden_UKD)
        return torch.where(valid_UN.any(dim=1)[:, None, None], compressed_UKD, content_UKD)


def _normalised(x: Tensor) -> Tensor:
    return functional.rms_norm(x, x.shape[-1:], eps=1e-6)
