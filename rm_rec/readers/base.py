"""Base class of readers, which answer queries from the slots of a memory.

Suffixes: B block, Q query of a block, K slot, D dim.
"""

from abc import ABC, abstractmethod

from jaxtyping import Bool, Float
from torch import Tensor, nn

from rm_rec.config.base import ReaderSettings
from rm_rec.machines.base import Slots
from rm_rec.outside import name_settings


class Reader(nn.Module, ABC):
    """Answers each block's queries from the block's memory; without a valid slot the answer must be zero.

    Every reader must add a valid slot's `log_weight` to the slot's logit or score. A reader is built from its settings
    and the sizes of queries and slots: `Reader(config, token_dim, slot_dim)`. `rm_rec.testing.check_reader` tests all
    these promises.

    >>> import torch
    >>> class BestSlot(Reader):
    ...     num_features, attended = 8, [slice(0, 8)]
    ...     def forward(self, queries, slots, recent=None):
    ...         score = (queries @ slots.keys.transpose(1, 2)).masked_fill(~slots.valid[:, None], -torch.inf)
    ...         best = score.argmax(dim=-1)[..., None].expand(-1, -1, 8)
    ...         return slots.values.gather(1, best).masked_fill(~slots.valid.any(dim=1)[:, None, None], 0.0)
    >>> slots = Slots(keys=torch.eye(8)[None], values=2 * torch.eye(8)[None], valid=torch.ones(1, 8, dtype=torch.bool))
    >>> BestSlot()(torch.eye(8)[None, 3:4], slots).argmax().item()  # one block of one query
    3
    """

    config_type: type[ReaderSettings]  # the class of its settings
    needs_labels: bool = False  # whether to call `penalty`, which reads the slots once more

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        name_settings(cls)

    @property
    @abstractmethod
    def num_features(self) -> int:
        """Size of an answer."""

    @property
    @abstractmethod
    def attended(self) -> list[slice]:
        """Slices of an answer that are vectors of size token_dim in the tokens' space."""

    @abstractmethod
    def forward(
        self,
        queries: Float[Tensor, "block query dim"],
        slots: Slots,
        recent: Float[Tensor, "block query dim"] | None = None,
    ) -> Float[Tensor, "block query features"]:
        """Answer each block's queries from the block's memory.

        `recent` is the window attention's answer to the same queries, in the tokens' space: a summary of recent events.
        """

    def penalty(
        self, queries: Float[Tensor, "block query dim"], slots: Slots, clicked: Bool[Tensor, "block query"]
    ) -> Float[Tensor, "block query"] | None:
        """Return the weighted penalty that training adds to the loss of each query, or None."""
        return None
