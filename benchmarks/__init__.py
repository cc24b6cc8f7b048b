"""Measurements; results are dated and name the hardware."""
