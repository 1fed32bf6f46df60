"""How a model comes to be: finds its platform, loads it, warms it up, has it timed and makes its batchers.

Everything but the framework's own calls happens on the event-loop thread. Must not live here: which versions are loaded
(``lifecycle``), what a loaded model does (``model``), how it is timed (``calibration``).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

from stfs import platforms
from stfs.batcher.batcher import Batcher, BatchRecord
from stfs.batcher.cache import ResponseCache
from stfs.batcher.places import Instance
from stfs.batcher.shape_plan import plan
from stfs.batcher.sharing import SharingBatcher
from stfs.batcher.slots import RunSlots, Share
from stfs.calibration.load import Recorded, calibrate_model
from stfs.config import ModelConfig
from stfs.errors import LoadFailed
from stfs.first_runs import warm_up_all, warm_up_shapes
from stfs.metrics import Metrics
from stfs.model import Model
from stfs.platforms.base import LoadOptions, Servable
from stfs.platforms.instances import open_instances
from stfs.platforms.loading import Hosting
from stfs.platforms.memory import run_on
from stfs.platforms.sidecar import disagreement
from stfs.signature import Signature

log = logging.getLogger("stfs.model")

SAVED_MODEL = "model.savedmodel"
"""The folder in a version's folder that Triton has SavedModels in, unless told otherwise."""

Replay = Callable[[Model, int], Awaitable[object]]
"""Runs what was recorded for a model, so many times; raises :class:`LoadFailed` if the model does not take it."""

Recordings = Callable[[Path, Servable, Mapping[str, Signature]], Recorded]
"""Some of the requests that were recorded for the version at that path. Blocking; never raises for what is in them."""


class ModelLoader:
    """Loads versions of the configured models: finds the platform, loads on a thread, warms up, makes the batchers.

    ``replay`` is called with each new model, once it answers and before it is given out; ``recordings`` is what it is
    timed on. Models have run slots in common if there are ``slots``.
    """

    def __init__(
        self,
        metrics: Metrics,
        replay: Replay | None = None,
        recordings: Recordings | None = None,
        slots: RunSlots | None = None,
    ) -> None:
        self._configs: Mapping[str, ModelConfig] = {}
        self._metrics = metrics
        self._replay = replay
        self._recordings = recordings
        self._slots = slots

    def configure(self, configs: Iterable[ModelConfig]) -> None:
        """What to load each model with from now on.

        Raises :class:`stfs.errors.ConfigError`, and changes nothing, if a platform is configured that does not exist.
        """
        by_name = {config.name: config for config in configs}
        for config in by_name.values():
            if config.platform:
                platforms.find(config.platform)
        self._configs = by_name

    async def __call__(self, name: str, version: int, path: Path) -> Model:
        """Load the model at ``path``; runs on the event loop, with the blocking parts on a thread.

        Raises :class:`stfs.errors.SetupError` with one line that says what is wrong.
        """
        loop = asyncio.get_running_loop()
        config = self._configs[name]
        started = time.monotonic()
        path = await loop.run_in_executor(None, files_of, config, path)
        servable = await loop.run_in_executor(None, load_servable, config, path)
        try:
            signatures = await loop.run_in_executor(None, warm_up_all, servable, config.batchable)
            signatures, paddings = plan(config.shapes, signatures, config.batch.max_batch_size, path)
            called = f'model "{name}" version {version}'
            await loop.run_in_executor(None, warm_up_shapes, servable, signatures, paddings, config.batch, called)
            recorded = partial(self._recorded, path, servable, signatures)
            timing = partial(calibrate_model, servable, signatures, config, path, recorded)
            calibrations = await loop.run_in_executor(None, timing)
        except BaseException:
            await loop.run_in_executor(None, servable.close)
            raise
        cache = ResponseCache(config.cache_bytes) if config.cache_bytes else None
        make: Callable[..., Batcher] = Batcher
        if cache is not None or config.single_flight:
            make = partial(SharingBatcher, cache=cache, counted=partial(self._metrics.record_cache, name, str(version)))
        batchers = {
            key: make(
                partial(run_on, servable, key, limit_s=config.run_timeout_s),
                config.batch,
                name=called,
                merge=signature.batchable,
                loop=loop,
                observer=self._observer(name, version),
                instances=_instances(servable, key, config.run_timeout_s),
                run_timeout_s=0.0 if servable.ends_runs else config.run_timeout_s,
                cost=calibrations[key].cost,
                in_flight=calibrations[key].in_flight,
                share=self._share_of(servable, config),
                padding=paddings.get(key),
                **({} if make is Batcher else {"place": key}),
                row_bytes=signature.row_bytes if signature.batchable else None,
                on_refused=partial(self._metrics.record_refused, name, str(version)),
            )
            for key, signature in signatures.items()
        }
        log.info(
            "loaded %s version %d: %s (%s) in %.2f s, %s",
            name,
            version,
            servable.platform,
            servable.runtime,
            time.monotonic() - started,
            "; ".join(
                f"{s.name} {'batches' if s.batchable else 'runs request by request'}" for s in signatures.values()
            ),
        )
        model = Model(name, version, servable, signatures, batchers, path)
        model.calibrations = calibrations
        model.cache = cache
        if self._replay is not None and config.warmup_iterations:
            try:
                await self._replay(model, config.warmup_iterations)
            except BaseException:
                await model.close()
                raise
        for batcher in batchers.values():
            if isinstance(batcher, SharingBatcher):
                batcher.is_open = True
        return model

    def _recorded(self, path: Path, servable: Servable, signatures: Mapping[str, Signature]) -> Recorded:
        return {} if self._recordings is None else self._recordings(path, servable, signatures)

    def _share_of(self, servable: Servable, config: ModelConfig) -> Share | None:
        if self._slots is None:
            return None
        return self._slots.join("cuda" if servable.on_gpu else "cpu", config.name, config.share_weight)

    def _observer(self, name: str, version: int) -> Callable[[BatchRecord], None]:
        text = str(version)

        def observe(record: BatchRecord) -> None:
            self._metrics.record_batch(
                name,
                text,
                rows=record.rows,
                padded=record.padded_rows - record.rows,
                queue_s=record.queue_wait_s,
                run_s=record.run_s,
                reason=record.reason,
                failed=record.failed,
                timed_out=record.timed_out,
                requests=record.requests,
                slot_wait_s=record.slot_wait_s,
            )

        return observe


def is_model(platform: str | None, path: Path) -> bool:
    """Whether ``path`` itself is a model of the platform of that name, or of any if it is ``None``."""
    return platforms.find(platform).detect(path) if platform else platforms.is_model(path)


def files_of(config: ModelConfig, path: Path) -> Path:
    """Where the model is in a version's folder: what its ``config.pbtxt`` names, or what Triton calls a SavedModel.

    Elsewhere ``path`` itself. Blocking. Raises :class:`LoadFailed` for a name that is not there.
    """
    file = config.repository_file
    if not path.is_dir():
        return path
    if file is None or not file.filename:
        saved = path / SAVED_MODEL
        return saved if saved.is_dir() and not is_model(config.platform, path) else path
    if path.name == file.filename:  # a front process is told of what the server has found
        return path
    if not (path / file.filename).exists():
        raise LoadFailed(f"{path}: there is no {file.filename}, which is default_model_filename in {file.path}")
    return path / file.filename


def load_servable(config: ModelConfig, path: Path) -> Servable:
    """Blocking. The platform is the configured one, else the one that recognises the files."""
    platform = platforms.find(config.platform) if config.platform else platforms.detect(path)
    file = config.repository_file
    if platform is None:
        asked = (
            f'{file.path} asks for "{file.platform}", which there is not here, and ' if file and file.platform else ""
        )
        raise LoadFailed(f"{path}: {asked}{_advice(path)}")
    options = LoadOptions(
        model_name=config.name,
        threads=config.threads,
        device=config.device,
        custom_op_paths=config.custom_op_paths,
        session_config=config.session_config,
        signature_file=config.signature_file,
        trusted_types=config.trusted_types,
        jvm_heap_bytes=config.jvm_heap_bytes,
        saved_model_tags=config.saved_model_tags,
        memory_limit_bytes=config.memory_limit_bytes,
        cuda_graphs=config.cuda_graphs,
        batch_sizes=config.batch.allowed_batch_sizes,
        told_signature=file.signature if file is not None else {},
    )
    servable = open_instances(
        platform,
        path,
        options,
        Hosting(config.isolation, config.python, config.processing_file),
        instances=config.instances,
        cpus=config.cpus,
        gpus=config.gpus,
    )
    if not servable.signatures:
        servable.close()
        raise LoadFailed(f"{path}: the model has no signature to serve")
    if file is not None and file.signature:
        told = disagreement(file.signature, servable.signatures[servable.default_signature])
        if told:
            log.warning(
                "model %s: %s does not fit the model, whose own signature counts: %s", config.name, file.path, told
            )
    return servable


def _advice(path: Path) -> str:
    """What to do about files that no platform recognises."""
    match path.suffix:
        case ".keras" | ".h5":
            return "a Keras file holds no graph to serve: write one with model.export(folder) and serve the folder"
        case ".pb":
            return "this is part of a SavedModel: serve the folder that it is in"
    known = ", ".join(sorted(platforms.available()))
    return f"no platform recognises these files; if the names mislead, say which with --model_platform ({known})"


def _instances(servable: Servable, key: str, limit_s: float) -> list[Instance]:
    """The ways to run a signature, where there are several."""
    members = servable.members
    if len(members) == 1:
        return []
    ways = ((member, partial(run_on, member, key, limit_s=limit_s)) for member in members)
    return [Instance(run, member.is_up, member.concurrent) for member, run in ways]
