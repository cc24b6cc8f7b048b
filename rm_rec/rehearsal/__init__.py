"""Rehearsal: an auxiliary loss that makes a memory keep what happened long ago and what matters."""
