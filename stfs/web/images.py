"""Image inference: ``POST /`` with a form of files, carried like the JSON that it stands for.

Owns how a form becomes tensors off the event loop and in time. What a form says is in ``protocols.stfs_form``, what
becomes of a file in ``stfs.images``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from functools import partial

from aiohttp import web

from stfs.config import ServerConfig
from stfs.context import Context, Lease
from stfs.errors import DeadlineExceeded, RequestError, UnsupportedMediaType
from stfs.images.decode import INSTALL, Upload, installed
from stfs.images.keep import keep, prepare_folder
from stfs.images.options import ImageOptions
from stfs.images.plan import make_plan
from stfs.images.pool import ImagePool
from stfs.protocols import stfs, stfs_form
from stfs.signature import STRING, Array, Signature, Tensors, TensorSpec
from stfs.web.infer import STFS, Encode, answer, infer_stfs
from stfs.web.key import CONTEXT

log = logging.getLogger("stfs.web")

FORM = "multipart/form-data"

MAX_THREADS = 8

POOL = web.AppKey("stfs_images", ImagePool)


def add_pool(app: web.Application, config: ServerConfig) -> None:
    """The threads that read images; they start with the first of them, and end with the application.

    Raises :class:`stfs.errors.ConfigError` if images are to be kept where they cannot be.
    """
    if config.inference_images_folder is not None:
        prepare_folder(config.inference_images_folder)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pool = app[POOL] = ImagePool(min(cores, MAX_THREADS), config.max_image_pixels, config.max_request_bytes)

    async def end_threads(_: web.Application) -> None:
        pool.close()

    app.on_cleanup.append(end_threads)


async def post(request: web.Request) -> web.Response:
    """``POST /``: a form of images, or JSON."""
    if request.content_type != FORM:
        return await infer_stfs(request)
    context = request.app[CONTEXT]
    refusal: RequestError | None = None
    if not installed():
        refusal = UnsupportedMediaType(f"images cannot be read here, for Pillow is not installed: run {INSTALL}")
    read = partial(_read, context, request.app[POOL], request.headers["Content-Type"])
    return await answer(request, STFS, Lease(context), refusal, read)


async def _read(
    context: Context,
    pool: ImagePool,
    content_type: str,
    body: bytes | memoryview,
    lease: Lease,
    deadline_s: float | None,
) -> tuple[Signature, Tensors, Encode]:
    """Signature, inputs and encoder of a form; see :data:`stfs.web.infer.Read`."""
    try:
        async with asyncio.timeout(None if deadline_s is None else deadline_s - time.monotonic()):
            form = await pool.run(stfs_form.read, content_type, body)
            signature = lease(form.model_name, form.model_version, form.signature_name)
            files, inputs = stfs_form.assign(form, signature)
            options = _options(context, lease)
            for spec in signature.inputs:
                if spec.name in files:
                    inputs[spec.name] = await _tensor(pool, spec, options, form, files[spec.name])
            if (folder := context.config.inference_images_folder) is not None:
                try:
                    await pool.run(keep, folder, [upload.data for _, upload in form.files])
                except OSError as error:
                    log.error("images of a request were not kept in %s: %s", folder, error.strerror)
    except TimeoutError:
        raise DeadlineExceeded("the deadline passed while the images were read") from None
    return signature, inputs, stfs.encode


def _options(context: Context, lease: Lease) -> ImageOptions:
    """What the operator says of the model that the lease holds."""
    served = lease.served
    assert served is not None, "the lease has found a model"
    return next((model.images for model in context.models() if model.name == served.name), ImageOptions())


async def _tensor(
    pool: ImagePool, spec: TensorSpec, options: ImageOptions, form: stfs_form.ImageForm, uploads: Sequence[Upload]
) -> Array:
    if spec.dtype != STRING:
        return await pool.tensor(uploads, make_plan(spec, options, form.asked))
    as_bytes = {"auto": spec.name.endswith("_bytes"), "bytes": True, "base64": False}[options.strings]
    return await pool.strings(uploads, spec, as_base64=not (as_bytes or form.raw_strings))
