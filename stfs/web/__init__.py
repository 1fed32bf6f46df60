"""The HTTP server: routes, pages, limits. Never imports platforms or the batcher."""
