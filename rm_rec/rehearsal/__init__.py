"""Rehearsal: an auxiliary training loss that asks the memory for events that it has folded long ago."""
