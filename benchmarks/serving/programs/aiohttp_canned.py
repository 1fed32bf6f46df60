"""A bare aiohttp application: reads the body and gives one answer, always the same: what a server costs by itself."""

import asyncio
import os

import uvloop
from aiohttp import web

ANSWER = os.environ["BENCH_ANSWER"].encode()


async def predict(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(body=ANSWER, content_type="application/json")


async def main() -> None:
    app = web.Application(client_max_size=1 << 28)
    app.router.add_post("/predict", predict)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(os.environ["BENCH_PORT"])).start()
    await asyncio.Event().wait()


with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
    loop.run(main())
