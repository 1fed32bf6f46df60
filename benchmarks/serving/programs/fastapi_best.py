"""FastAPI as well as it can be done by hand: raw bodies, orjson both ways, and (BENCH_BATCHING=on) a small batcher."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import orjson
import the_model as model
from fastapi import FastAPI, Request, Response

run = model.load(model.PATH)
waiting: asyncio.Queue = asyncio.Queue()


async def gather() -> list:
    """What has arrived by the end of the wait, at most a batch."""
    loop = asyncio.get_running_loop()
    entries = [await waiting.get()]
    end_s = loop.time() + model.BATCH_WAIT_S
    while len(entries) < model.MAX_BATCH:
        try:
            entries.append(
                waiting.get_nowait()
                if not waiting.empty()
                else await asyncio.wait_for(waiting.get(), end_s - loop.time())
            )
        except TimeoutError:
            break
    return entries


async def batches() -> None:
    loop = asyncio.get_running_loop()
    while True:
        entries = await gather()
        answers = await loop.run_in_executor(None, run, np.concatenate([rows for rows, _ in entries]))
        at = 0
        for rows, answer in entries:
            if not answer.done():
                answer.set_result(answers[at : at + len(rows)])
            at += len(rows)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    task = asyncio.create_task(batches()) if model.BATCHING else None
    yield
    if task is not None:
        task.cancel()


app = FastAPI(lifespan=lifespan)


@app.post("/predict")
async def predict(request: Request) -> Response:
    rows = model.floats(orjson.loads(await request.body())["instances"])
    if model.BATCHING:
        answer = asyncio.get_running_loop().create_future()
        waiting.put_nowait((rows, answer))
        outputs = await answer
    else:
        outputs = run(rows)
    text = orjson.dumps({"predictions": outputs}, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(text, media_type="application/json")
