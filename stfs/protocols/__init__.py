"""Wire dialects as pure functions over bytes. Know no aiohttp and no gRPC."""
