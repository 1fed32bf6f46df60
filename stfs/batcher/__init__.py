"""Adaptive batching. Knows no HTTP, no versions, no frameworks."""
