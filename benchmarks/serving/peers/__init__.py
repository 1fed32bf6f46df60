"""Who is compared: how each is started, asked, and told right from wrong. One file a peer; ``ALL`` is the list."""

from __future__ import annotations

from benchmarks.serving.peers.bentoml import BENTOML
from benchmarks.serving.peers.fastapi import FASTAPI
from benchmarks.serving.peers.litserve import LITSERVE
from benchmarks.serving.peers.mlserver import MLSERVER
from benchmarks.serving.peers.peer import Peer
from benchmarks.serving.peers.ray import RAY
from benchmarks.serving.peers.references import REFERENCES
from benchmarks.serving.peers.stfs import STFS
from benchmarks.serving.peers.tfserving import TFSERVING
from benchmarks.serving.peers.triton import TRITON

ALL: dict[str, Peer] = {
    peer.name: peer
    for group in (STFS, REFERENCES, FASTAPI, TRITON, MLSERVER, LITSERVE, BENTOML, RAY, TFSERVING)
    for peer in group
}
