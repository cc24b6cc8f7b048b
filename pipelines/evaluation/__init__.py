"""Evaluation of predictions and of memories: metrics, retention, tables and figures."""
