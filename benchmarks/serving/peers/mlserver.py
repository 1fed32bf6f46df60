"""MLServer with a custom runtime in the process that speaks HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable

from benchmarks.serving.peers.peer import Command, Peer, Start, program_env

PATH = "/v2/models/m/infer"


def _start(*, batching: bool) -> Callable[[Start], Command]:
    def start(what: Start) -> Command:
        grpc, metrics = what.spare_ports
        settings = {"host": "127.0.0.1", "http_port": what.port, "grpc_port": grpc, "metrics_port": metrics}
        settings |= {"parallel_workers": 0, "debug": False, "use_structured_logging": False}
        model: dict[str, object] = {"name": "m", "implementation": "mlserver_runtime.Runtime"}
        if batching:
            model |= {"max_batch_size": what.max_batch, "max_batch_time": what.batch_wait_s}
        folder = what.folder / "m"
        folder.mkdir()
        (folder / "settings.json").write_text(json.dumps(settings))
        (folder / "model-settings.json").write_text(json.dumps(model))
        program = str(what.python.parent / "mlserver")
        return Command((program, "start", str(folder)), program_env(what, batching=batching))

    return start


MLSERVER = (
    Peer("mlserver", "MLServer, batching off", "mlserver", PATH, "v2", _start(batching=False)),
    Peer("mlserver-batched", "MLServer, adaptive batching", "mlserver", PATH, "v2", _start(batching=True)),
)
