"""Runs the requests that were recorded for a model before it serves, so that none of its clients pays for first calls.

As TensorFlow Serving does (``servables/tensorflow/saved_model_warmup_util.cc``): they are read from a file beside the
version, and one that fails fails the load. Which requests a file holds is ``requests``' to say.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

from stfs.errors import LoadFailed, RequestError, SignatureNotFound
from stfs.model import Model
from stfs.platforms.base import Servable
from stfs.signature import Signature, Tensors
from stfs.warmup.requests import decode
from stfs.warmup.tfrecord import records

log = logging.getLogger(__name__)

REQUESTS_FILE = Path("assets.extra", "tf_serving_warmup_requests")
MAX_RECORDS = 1000
RECORDS_TIMED = 32
"""Records that timing looks at: it wants an example, and a file may be long."""


async def replay(model: Model, iterations: int) -> int:
    """Run each recorded request of ``model`` so many times; how many there were, 0 if there is no file.

    On the event loop, the file being read on a thread; the model is not yet reached by others. Raises
    :class:`LoadFailed`, naming the file and the record, if one cannot be read or the model refuses it.
    """
    path = model.path / REQUESTS_FILE
    if not await asyncio.to_thread(path.is_file):
        return 0
    started_s = time.monotonic()
    reader = records(path)
    count = 0
    while (record := await asyncio.to_thread(next, reader, None)) is not None:
        count += 1
        if count > MAX_RECORDS:
            raise LoadFailed(f"{path}: Number of warmup records exceeds the maximum ({MAX_RECORDS})")
        try:
            for recorded in decode(record):
                signature = recorded.signature(model.signature)
                for _ in range(iterations):
                    await model.infer(signature, dict(recorded.inputs), None)
        except RequestError as error:
            raise LoadFailed(f"{path}: warmup record {count}: {error}") from error
    log.info(
        "warmed up %s version %d by %d recorded requests in %.2f s",
        model.name,
        model.version,
        count,
        time.monotonic() - started_s,
    )
    return count


def recorded_requests(path: Path, servable: Servable, signatures: Mapping[str, Signature]) -> dict[str, list[Tensors]]:
    """The first recorded requests of the version at ``path`` by signature, bound to it. Blocking.

    What cannot be read is left out: :func:`replay` says what is wrong with it.
    """
    found: dict[str, list[Tensors]] = {}
    file = path / REQUESTS_FILE
    if not file.is_file():
        return found

    def named(name: str | None) -> Signature:
        signature = signatures.get(name or servable.default_signature)
        if signature is None:
            raise SignatureNotFound(f'there is no signature "{name}"')
        return signature

    try:
        for record in islice(records(file), RECORDS_TIMED):
            for recorded in decode(record):
                signature = recorded.signature(named)
                found.setdefault(signature.name, []).append(signature.bind(recorded.inputs))
    except (RequestError, LoadFailed) as error:
        log.debug("%s is not timed on all that was recorded: %s", path, error)
    return found
