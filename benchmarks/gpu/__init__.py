"""What ways to run a model on a GPU cost: ``python -m benchmarks.gpu``."""
