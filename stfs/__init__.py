"""stfs: serve any trained model to any client. Importing this imports no framework."""

__version__ = "0.1.0"
