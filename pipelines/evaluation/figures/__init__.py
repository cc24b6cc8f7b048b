"""Figures of predictions and of retention, in one style; they are returned, not shown."""
