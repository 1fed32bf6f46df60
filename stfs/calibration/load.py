"""The calibration of one model as it is loaded: kept from an earlier start if nothing has changed, else measured.

Blocking. Must not live here: how anything is measured, kept or told apart.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from stfs.calibration import digests
from stfs.calibration.cache import Cache, folder_of
from stfs.calibration.inputs import ZEROS, Way, ways
from stfs.calibration.measure import measure_overlap, time_sizes
from stfs.calibration.result import Calibration, fitted, from_json
from stfs.config import ModelConfig
from stfs.platforms.base import Servable, one_line
from stfs.platforms.processing import find_processing
from stfs.signature import Signature, Tensors, zeros

log = logging.getLogger("stfs.calibration")

FORM = 1
"""Of what is kept. Another version of this software that measures otherwise counts on."""

MODEL_RAISES = (Exception, SystemExit)
"""What a model's own code may raise: some call ``sys.exit`` where they mean that they cannot."""

Recorded = Mapping[str, Sequence[Tensors]]
"""Requests that were recorded for a model, by the signature that they are of and bound to it."""

SWITCHED_OFF = "calibrate is false"


def calibrate_model(
    servable: Servable,
    signatures: Mapping[str, Signature],
    config: ModelConfig,
    path: Path,
    recorded: Callable[[], Recorded] = dict,
) -> dict[str, Calibration]:
    """One for each signature. Never raises for what the model or the disk does: that is told in its place.

    ``signatures`` are settled by the warm-up; ``path`` is the version's; ``recorded`` is asked only where something is
    to be measured.
    """
    skipped = {key: why for key, one in signatures.items() if (why := _why_not(one, config))}
    found = {key: Calibration(why_skipped=why) for key, why in skipped.items()}
    wanted = {key: one for key, one in signatures.items() if key not in skipped}
    if not wanted:
        return found
    machine = digests.machine(servable.runtime)
    folder = folder_of(config.calibration_cache)
    cache = None if folder is None else Cache(folder)
    name = None if cache is None else _name(cache, servable, wanted, config, path, machine)
    kept = None if cache is None or name is None else _kept(cache, name, wanted)
    if kept is not None:
        for key, calibration in kept.items():
            _warm(servable, wanted[key], calibration)
    else:
        requests = recorded()
        kept = {
            key: _measure(servable, signature, config.batch.max_batch_size, requests.get(key, ()), machine)
            for key, signature in wanted.items()
        }
        if cache is not None and name is not None and any(one.times for one in kept.values()):
            _keep(cache, name, kept, config)
    for key, calibration in kept.items():
        told = 'model "%s", %s: %s%s'
        log.info(told, config.name, key, calibration.words, " (measured at an earlier start)" * calibration.cached)
    return {key: {**found, **kept}[key] for key in signatures}


def _why_not(signature: Signature, config: ModelConfig) -> str:
    if not config.calibrate:
        return SWITCHED_OFF
    return "" if signature.batchable else "it runs request by request"


def _measure(
    servable: Servable, signature: Signature, max_rows: int, recorded: Sequence[Tensors], machine: str
) -> Calibration:
    tried = ways(signature, recorded, partial(zeros, signature.inputs))
    if not tried:
        return Calibration(why_skipped="an input is of strings, and no request was recorded to time it on")
    why = ""
    for way in tried:
        try:
            return _measure_on(servable, signature, max_rows, way, machine)
        except MODEL_RAISES as error:
            why = f"the model refused {way[0]}: {one_line(error)}"
            log.debug("%s: %s", signature.name, why)
    return Calibration(why_skipped=why)


def _measure_on(servable: Servable, signature: Signature, max_rows: int, way: Way, machine: str) -> Calibration:
    what, inputs_of = way
    run = partial(servable.run, signature.name)
    times = time_sizes(run, inputs_of, max_rows)
    most_rows, most_s = times[-1]
    overlap: float | None = None
    if most_rows < max_rows:
        why = "the model is too slow for a full batch to be timed at a start"
    elif len(servable.members) > 1:
        why = "it has several instances, of which each runs a batch"
    elif not servable.concurrent:
        why = "its platform runs one batch at a time"
    else:
        overlap, why = measure_overlap(partial(run, inputs_of(most_rows)), most_s)
    return fitted(
        times, overlap=overlap, why_no_overlap=why, ran_on=what, measured_at_s=round(time.time()), machine=machine
    )


def _warm(servable: Servable, signature: Signature, calibration: Calibration) -> None:
    """One run of the largest size that was timed, which measuring would have made ready by the way."""
    if not calibration.times:
        return
    of_zeros = partial(zeros, signature.inputs)
    for what, inputs_of in ways(signature, (), of_zeros) or [(ZEROS, of_zeros)]:
        try:
            servable.run(signature.name, inputs_of(calibration.times[-1][0]))
            return
        except MODEL_RAISES as error:
            log.debug("%s: the warm-up of a full batch on %s failed: %s", signature.name, what, error)


def _name(
    cache: Cache, servable: Servable, signatures: Mapping[str, Signature], config: ModelConfig, path: Path, machine: str
) -> str | None:
    """By what the model's calibration is kept: its files, the machine, and what else runs depend on."""
    try:
        processing = find_processing(path, config.processing_file)
        files = [_contents(cache, one) for one in (path, processing) if one is not None]
    except Exception as error:  # somebody takes the files away while they are read
        log.debug("%s is not looked up in the cache: %s", path, error)
        return None
    return digests.digest(
        {
            "form": FORM,
            "files": files,
            "machine": machine,
            "platform": servable.platform,
            "signatures": {key: repr((one.inputs, one.outputs, one.batchable)) for key, one in signatures.items()},
            "max_batch_size": config.batch.max_batch_size,
            "runs": [
                config.threads,
                config.device,
                config.isolation,
                config.python,
                config.session_config,
                config.custom_op_paths,
                config.jvm_heap_bytes,
                config.saved_model_tags,
                config.instances,
                config.cpus,
                config.gpus,
                config.memory_limit_bytes,
                config.cuda_graphs,
                config.batch.allowed_batch_sizes,
            ],
        }
    )


def _contents(cache: Cache, path: Path) -> str:
    """The digest of the files at ``path``, read only if they have changed since they were last read."""
    fingerprint, total_bytes = digests.fingerprint(path)
    if total_bytes > digests.MAX_HASHED_BYTES:
        return fingerprint
    known = cache.get("files", fingerprint)
    if known is not None and isinstance(known.get("contents"), str):
        return str(known["contents"])
    contents = digests.contents(path)
    try:
        cache.put("files", fingerprint, {"contents": contents})
    except OSError as error:
        log.debug("%s: the digest of its files is not kept: %s", path, error)
    return contents


def _kept(cache: Cache, name: str, signatures: Mapping[str, Signature]) -> dict[str, Calibration] | None:
    """All that was kept by this name, or nothing of it."""
    told: Any = cache.get("model", name)
    try:
        return None if told is None else {key: from_json(told["signatures"][key]) for key in signatures}
    except (ValueError, KeyError, TypeError) as error:
        log.debug("%s in %s is not what it should be: %s", name, cache.folder, error)
        return None


def _keep(cache: Cache, name: str, calibrations: Mapping[str, Calibration], config: ModelConfig) -> None:
    told = {key: one.as_json() for key, one in calibrations.items()}
    try:
        cache.put("model", name, {"form": FORM, "signatures": told})
    except OSError as error:
        level = logging.DEBUG if config.calibration_cache == "auto" else logging.WARNING
        log.log(level, "%s takes no files, so that the next start times the model again: %s", cache.folder, error)
