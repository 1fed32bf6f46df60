"""The readable twin of ``_fastjson``: what JSON to tensors and back means, in Python. Chosen by ``stfs.codec``."""
