"""Reads images on a few threads, off the event loop, in bounded memory.

Owns the threads. For the event-loop thread; knows no HTTP.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from stfs.errors import InvalidInput, InvalidRequest
from stfs.images.decode import Opened, Seen, Upload, look, open_for, open_to_check
from stfs.images.plan import Plan
from stfs.signature import STRING, Array, TensorSpec

T = TypeVar("T")

LARGE_PIXELS = 1 << 23
"""Images that hold more pixels than this while they are decoded are decoded one at a time."""


class ImagePool:
    """``threads`` of them read images of up to ``max_pixels`` pixels; ``max_bytes`` bounds the tensor of one request.

    Decoding takes about 8 bytes a pixel, 20 for WebP: at most for ``threads`` images of :data:`LARGE_PIXELS`, and for
    one of ``max_pixels``.
    """

    def __init__(self, threads: int, max_pixels: int, max_bytes: int) -> None:
        self._threads = threads
        self._max_pixels = max_pixels
        self._max_bytes = max_bytes
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="stfs-images")
        self._large = ThreadPoolExecutor(1, thread_name_prefix="stfs-large-image")

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """``work`` on one of the threads; cancelling withdraws it if it has not begun."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *args)

    async def tensor(self, uploads: Sequence[Upload], plan: Plan) -> Array:
        """The images as the input of the plan: shape ``[images, ...]``, or that of one image if it takes one.

        Raises :class:`InvalidRequest` naming the file that will not do.
        """
        _check_count(plan.spec, plan.batched, len(uploads))
        seen = await self.run(lambda: [look(upload, self._max_pixels) for upload in uploads])
        size = _common_size(uploads, seen, plan)
        shape = plan.row_shape(*size)
        row_bytes = int(np.prod(shape, dtype=np.int64)) * plan.spec.dtype.itemsize
        if row_bytes * len(uploads) > self._max_bytes:
            raise InvalidRequest(
                f"the images come to {row_bytes * len(uploads)} bytes, over the limit of {self._max_bytes}: "
                "send fewer at a time or raise --max_request_bytes"
            )
        rows = np.empty((len(uploads), *shape), plan.spec.dtype)

        await self._each(
            len(uploads),
            lambda at: open_for(uploads[at], plan, self._max_pixels),
            lambda at, pixels: plan.write(pixels, rows[at : at + 1]),
        )
        return rows if plan.batched else rows[0]

    async def strings(self, uploads: Sequence[Upload], spec: TensorSpec, *, as_base64: bool) -> Array:
        """The files themselves, once they are known to be whole images, as an input of strings of any rank.

        ``as_base64`` gives them as url-safe base64 text (RFC 4648, 5). Raises as :meth:`tensor`.
        """
        shape = (None,) if spec.shape is None else spec.shape
        if any(side not in (None, 1) for side in shape[1:]):
            raise InvalidInput(spec.name, f"takes strings of shape {spec.describe_shape()}: an image is one string")
        _check_count(spec, bool(shape), len(uploads))
        values = np.empty(len(uploads), STRING)

        def put(at: int, _: Array) -> None:
            values[at] = base64.urlsafe_b64encode(uploads[at].data) if as_base64 else uploads[at].data

        await self._each(len(uploads), lambda at: open_to_check(uploads[at], self._max_pixels), put)
        return values.reshape((len(uploads),) + (1,) * (len(shape) - 1) if shape else ())

    def close(self) -> None:
        """End the threads; waits for what they are at."""
        self._pool.shutdown(cancel_futures=True)
        self._large.shutdown(cancel_futures=True)

    async def _each(self, count: int, opened: Callable[[int], Opened], done: Callable[[int, Array], None]) -> None:
        """Open, decode and be done with each index, on all the threads, a few of this request's at a time."""

        def decode_unless_large(at: int) -> Opened | None:
            image = opened(at)
            if image.pixels > LARGE_PIXELS:
                return image
            done(at, image.load())
            return None

        async def lane() -> None:
            for at in indices:
                if (large := await self.run(decode_unless_large, at)) is not None:
                    loop = asyncio.get_running_loop()
                    await loop.run_in_executor(self._large, lambda at, image: done(at, image.load()), at, large)

        indices = iter(range(count))
        await _all_or_none([lane() for _ in range(min(self._threads, count))])


async def _all_or_none(works: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Wait for all; the first error ends the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _check_count(spec: TensorSpec, batched: bool, count: int) -> None:
    most = None if batched and (spec.shape is None or spec.shape[0] is None) else 1
    if batched and spec.shape is not None and spec.shape[0] is not None:
        most = spec.shape[0]
    if most is not None and count != most:
        raise InvalidInput(spec.name, f"takes {most} image{'s' * (most != 1)} at a time, and {count} were sent")


def _common_size(uploads: Sequence[Upload], seen: Sequence[Seen], plan: Plan) -> tuple[int, int]:
    """Width and height that all of them will have; raises naming the first that differs."""
    sizes = [plan.fitted(*one.size) for one in seen]
    for upload, size in zip(uploads, sizes, strict=True):
        if size != sizes[0]:
            raise upload.refused(
                f"has {size[1]} by {size[0]} pixels and the first {sizes[0][1]} by {sizes[0][0]}: "
                "send the field shape, such as shape=224,224, and all become that"
            )
    return sizes[0]
