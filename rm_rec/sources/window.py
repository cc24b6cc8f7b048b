"""Target attention over raw recent events: the window beside the memory, and the baselines DIN-50 and DIN-full.

Source: Deep Interest Network (Zhou et al., KDD 2018, section 4.3), with a softmax and a null key (see attention.py)
instead of its activation unit, and a learned bias for each event's age at the impression.
Suffixes: U user, S segment, N event of a segment, B block, Q query, W event of a window, K the null key and W, D dim,
H head.
"""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from rm_rec.attention import NullAttention
from rm_rec.config import LastEvents, RecentSegments, WholeHistory, Window
from rm_rec.machines.base import State
from rm_rec.query_blocks import QueryBlocks
from rm_rec.segments import Stretch
from rm_rec.sources.base import AnswerSource
from rm_rec.time_bins import NUM_TIME_BINS, time_bins


class WindowSource(AnswerSource):
    """Attends from targets to the last raw events of their histories, with a bias by each event's age; has no state."""

    def __init__(self, config: Window, token_dim: int, segment_length: int) -> None:
        super().__init__()
        self.attention = NullAttention(token_dim, token_dim, token_dim, config.num_heads)
        self.age_bias = nn.Parameter(torch.zeros(NUM_TIME_BINS, config.num_heads))
        self.whole_history = isinstance(config, WholeHistory)
        self.last_events: int | None = None
        self.num_segments = 0
        if isinstance(config, RecentSegments):
            self.num_segments = config.num_segments
        elif isinstance(config, LastEvents):
            self.last_events = config.num_events
            self.num_segments = math.ceil(config.num_events / segment_length)

    @property
    def num_features(self) -> int:
        """Size of an answer."""
        return self.attention.num_features

    @property
    def attended(self) -> list[slice]:
        """The first features of an answer are the attended events."""
        return [slice(0, self.attention.value.out_features)]

    @property
    def needs_boundaries(self) -> bool:
        """False for the whole history, of which a query's boundary selects nothing beyond `num_visible`."""
        return not self.whole_history

    def answer(self, queries: QueryBlocks, state: State, recent: Stretch) -> Float[Tensor, "block query features"]:
        """Answer each block's queries from the tail and the last segments before its boundary."""
        tokens_USND, time_USN = recent.segments.tokens, recent.segments.time
        num_segments, segment_length = time_USN.shape[1:]
        if self.whole_history:
            row_B = queries.user
            columns = tokens_USND.flatten(1, 2), time_USN.flatten(1)
            first_B = torch.zeros_like(queries.boundary)
        else:
            first_segment_B = queries.boundary + recent.num_folded - self.num_segments
            # The consecutive segments of each block's window.
            segment_BS = first_segment_B[:, None] + torch.arange(self.num_segments + 1, device=first_segment_B.device)
            row_B = (queries.user[:, None] * num_segments + segment_BS.clamp(0, num_segments - 1)).flatten()
            columns = tokens_USND.flatten(0, 1), time_USN.flatten(0, 1)
            first_B = first_segment_B * segment_length
        tokens, time = columns
        # What fewer rows have is projected: all events, if several blocks read each of them, or those that are read.
        if len(row_B) < len(tokens):
            keys, values = self.attention.project(tokens.index_select(0, row_B))
        else:
            keys, values = (projected.index_select(0, row_B) for projected in self.attention.project(tokens))
        keys_BWD, values_BWD, time_BW = (
            rows.view(len(queries), -1, *rows.shape[2:]) for rows in (keys, values, time.index_select(0, row_B))
        )

        # Positions of the window's events in the stretch; those before a user's first event are padding.
        position_B1W = (first_B[:, None] + torch.arange(time_BW.shape[1], device=first_B.device))[:, None]
        lead_B11 = recent.lead.index_select(0, queries.user)[:, None, None]
        end_BQ1 = queries.num_visible[..., None]
        seen_BQW = (position_B1W < end_BQ1) & (position_B1W >= lead_B11)
        if self.last_events is not None:
            seen_BQW &= position_B1W >= end_BQ1 - self.last_events
        # One look-up gives bias, mask and null key: the last two rows of the table are -inf and the null key's logits.
        age_BQW = time_bins(queries.time[..., None] - time_BW[:, None])
        row_BQK = functional.pad(age_BQW.masked_fill_(~seen_BQW, NUM_TIME_BINS), (1, 0), value=NUM_TIME_BINS + 1)
        hidden = self.age_bias.new_full((1, self.attention.num_heads), -math.inf)
        table = torch.cat([self.age_bias, hidden, self.attention.null_logit[None]])
        bias_BHQK = _look_up(table, row_BQK).permute(0, 3, 1, 2)
        answer: Tensor = self.attention(queries.tokens, keys_BWD, values_BWD, bias_BHQK)
        return answer


class _SmallTable(torch.autograd.Function):
    """`functional.embedding` for a table of few rows, with a backward pass that is seven times faster on CPU."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.num_rows = len(table)
        return functional.embedding(rows, table)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        (rows,) = ctx.saved_tensors
        flat = rows.flatten()
        columns = [column.flatten() for column in gradient.unbind(-1)]
        sums = [torch.bincount(flat, weights=column, minlength=ctx.num_rows) for column in columns]
        return torch.stack(sums, dim=1).to(gradient.dtype), None


def _look_up(table: Float[Tensor, "row column"], rows: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape column"]:
    if not torch.is_grad_enabled():
        return functional.embedding(rows, table)
    selected: Tensor = _SmallTable.apply(table, rows)  # type: ignore[no-untyped-call]  # torch does not type it
    return selected
