"""Looking at the file of models again and again, and serving what it says.

Must not live here: what the file means (``models``), how models are exchanged (``Server.apply``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from stfs.config import ModelConfig
from stfs.errors import ConfigError
from stfs.model_server.models import check_change
from stfs.model_server.settings import Settings, read_models

log = logging.getLogger(__name__)

Models = tuple[ModelConfig, ...]


class Served(Protocol):
    """What is needed of :class:`stfs.server.Server`."""

    models: Models

    async def apply(self, models: Sequence[ModelConfig]) -> Mapping[str, str]:
        """Serve these models and no others; the reason by the name of each that does not serve."""


async def follow(settings: Settings, server: Served) -> None:
    """Serve what the file of models says, until cancelled; returns at once if nobody wants it looked at again."""
    path, common = settings.models_file, settings.common
    if path is not None and settings.models_poll_s > 0:
        reloader = Reloader(lambda: read_models(path, common), server, settings.server.models)
        await reloader.run(settings.models_poll_s)


class Reloader:
    """Applies what the file says whenever that has changed; see :meth:`look`. For the event-loop thread.

    ``read`` gives the file's models, ``None`` for a file that says nothing; it is called on a thread. ``first`` is what
    it gave when the server started.
    """

    def __init__(self, read: Callable[[], Models | None], server: Served, first: Models) -> None:
        self._read = read
        self._server = server
        self._applied = first
        self._told = ""

    async def run(self, interval_s: float) -> None:
        """Look every so many seconds, until cancelled."""
        while True:
            await asyncio.sleep(interval_s)
            try:
                await self.look()
            except Exception:
                log.exception("looking at the model config file failed")

    async def look(self) -> None:
        """Apply the file if it differs from what was applied last.

        A file that is broken, or that asks for what cannot be, changes nothing: that is logged once, and what was
        served is served on. It is tried again at the next look, since a label may have to wait for its version.
        """
        try:
            models = await asyncio.to_thread(self._read)
            if models is None or models == self._applied:
                return
            check_change(self._server.models, models)
            failures = await self._server.apply(models)
        except ConfigError as error:
            if str(error) != self._told:
                self._told = str(error)
                log.error("the model config file is not applied, and the models are served as before: %s", error)
            return
        self._applied, self._told = models, ""
        log.info("the model config file was applied; models: %s", ", ".join(model.name for model in models) or "none")
        for name, reason in failures.items():
            log.error('model "%s" does not serve yet: %s', name, reason)
