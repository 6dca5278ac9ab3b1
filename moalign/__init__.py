"""Multi-objective alignment of language models: training, dynamic weights, Pareto search."""
