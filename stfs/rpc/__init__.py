"""The gRPC server: services, limits, credentials, health. Never imports platforms or the batcher."""
