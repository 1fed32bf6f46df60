"""Times a model's runs when it is loaded, for the batching policy, and keeps what was found for the next start.

Must not live here: what follows from the cost (``batcher.adaptive``), who may read it (``web``).
"""
