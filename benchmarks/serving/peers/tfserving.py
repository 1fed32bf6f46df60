"""TensorFlow Serving, given by URL (``--tfs-url http://HOST:PORT/v1/models/NAME:predict``): it runs elsewhere.

Its model must be the MLP's weights in a SavedModel of one input; answers are checked as everyone's are.
"""

from __future__ import annotations

from benchmarks.serving.peers.peer import Peer

TFSERVING = (Peer("tensorflow-serving", "TensorFlow Serving", "", "", "instances", None, frozenset({"mlp"})),)
