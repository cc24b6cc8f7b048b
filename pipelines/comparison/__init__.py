"""Comparison of models: training runs, results, costs and reports of `pipelines.compare_machines`."""
