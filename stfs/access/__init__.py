"""Who is let in: credentials and scopes, TLS, pages of other origins. Knows no HTTP server and no gRPC."""
