"""Metrics of predicted click probabilities on NumPy arrays, with intervals by resampling users; torch is not needed."""
