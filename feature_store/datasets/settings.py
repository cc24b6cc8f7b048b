"""Settings of the synthetic log."""

from typing import Self

from pydantic import Field, model_validator

from rm_rec.config.base import Settings


class SyntheticConfig(Settings):
    """The size and structure of a synthetic log."""

    users: int = Field(1000, ge=1)
    """Number of users."""
    events_per_user: int = Field(300, ge=10)
    """Average number of events of a user; each has between 0.6 and 1.4 times as many."""
    items: int = Field(1000, ge=2)
    """Number of items."""
    categories: int = Field(64, ge=4)
    """Number of categories of items."""
    early_interests: int = Field(28, ge=1)
    """Number of each user's early interests: categories that occur early in the history, and again at its end. The
    more there are, the more a memory has to keep."""
    recent_interests: int = Field(6, ge=1)
    """Number of each user's current interests: categories of all other events, replaced one by one over time."""
    early_part: float = Field(0.4, gt=0, lt=1)
    """Fraction of the history, at its start, in which early interests occur."""
    late_part: float = Field(0.4, gt=0, lt=1)
    """Fraction of the history, at its end, in which early interests occur again."""
    early_share: float = Field(0.6, ge=0, le=1)
    """Fraction of the early part's events that are of early interests, one after the other."""
    late_share: float = Field(0.5, ge=0, le=1)
    """Fraction of the late part's events that are of early interests, drawn at random."""
    drift: float = Field(0.15, ge=0, le=1)
    """Probability that a new session replaces one of the recent interests."""
    strength: float = Field(1.5, ge=0)
    """Amount by which liking a category raises, and disliking lowers, the log-odds of a click. The higher it is, the
    easier clicks are to predict from the history."""
    quality: float = Field(0.4, ge=0)
    """Standard deviation of the items' own log-odds of a click, the same for all users."""
    seed: int = 0
    """Seed of all random numbers."""

    @model_validator(mode="after")
    def _categories_suffice(self) -> Self:
        if self.early_interests + self.recent_interests >= self.categories:
            raise ValueError(
                f"{self.early_interests} early and {self.recent_interests} recent interests need more than "
                f"{self.categories} categories; raise categories"
            )
        if self.items < self.categories:
            raise ValueError(f"{self.items} items leave some of {self.categories} categories empty; raise items")
        return self
