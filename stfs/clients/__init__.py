"""Client programs made from a model's signature, one template a language. Knows no HTTP server and no frameworks."""
