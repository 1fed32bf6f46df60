"""Ray Serve: one replica; the proxy and the replica are processes of their own."""

from __future__ import annotations

from benchmarks.serving.peers.peer import PROGRAMS, Command, Peer, Start, program_env


def _start(what: Start) -> Command:
    env = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0", **program_env(what, batching=True)}
    return Command((str(what.python), str(PROGRAMS / "ray_app.py")), env)


RAY = (Peer("ray", "Ray Serve, batching on", "ray", "/predict", "instances", _start),)
