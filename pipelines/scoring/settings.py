"""Settings of files of candidates."""

from rm_rec.config.base import Settings


class CandidateColumns(Settings):
    """Names of the candidates' columns, where they are not those of the model's log."""

    user: str | None = None
    """User whose memory is read."""
    item: str | None = None
    """Item that may be shown."""
    time: str | None = None
    """Time of showing, as in the log; without such a column all candidates have the time --at."""
    prediction: str = "prediction"
    """Name of the column of click probabilities that is added."""
