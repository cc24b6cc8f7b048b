"""Default bins of the curves, read without NumPy."""

HISTORY_BUCKETS = (0, 1, 32, 100, 200, 500, 1000)  # each bucket's shortest history, in events
AGE_BINS = (0, 1, 2, 3, 5, 9, 17)  # each bin's youngest age, in segments
