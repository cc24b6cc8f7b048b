"""Models side by side: what `pipelines.compare_machines` trains, measures and reports."""
