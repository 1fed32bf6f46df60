"""Warm-up by recorded requests, as TensorFlow Serving does it, for models of every platform."""
