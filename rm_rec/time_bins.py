"""Binning durations on a logarithmic scale: the time gap before an event, the age of an event at an impression."""

import torch
from jaxtyping import Int
from torch import Tensor

NUM_TIME_BINS = 64


def time_bins(duration: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Bin durations of any unit by floor(log2(1 + duration)): 0, 1-2, 3-6, 7-14, ...; negative ones count as 0.

    Exact below 2**53, so every device gives the same bins.

    >>> time_bins(torch.tensor([-5, 0, 1, 2, 3, 63])).tolist()
    [0, 0, 1, 1, 2, 6]
    """
    # Taken from the exponent of a float64, since a logarithm rounds up just below a power of two.
    bins = duration.clamp(min=0).to(torch.float64).add_(1.0).view(torch.int64).bitwise_right_shift_(52)
    return bins.sub_(1023)


def gap_bins(event_time: Int[Tensor, " event"], event_lengths: Int[Tensor, " user"]) -> Int[Tensor, " event"]:
    """Bin the time since the same user's previous event; a user's first event has bin NUM_TIME_BINS.

    >>> gap_bins(torch.tensor([100, 163, 7]), torch.tensor([2, 1])).tolist()
    [64, 6, 64]
    """
    gaps = torch.zeros_like(event_time)
    gaps[1:] = event_time[1:] - event_time[:-1]
    bins = time_bins(gaps)
    first = event_lengths.cumsum(0) - event_lengths
    bins[first[event_lengths > 0]] = NUM_TIME_BINS
    return bins
