"""Ray Serve with its own batching: one replica."""

import signal

import numpy as np
import ray
import the_model as model
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=1, max_ongoing_requests=256, ray_actor_options={"num_cpus": 0})
class Service:
    def __init__(self) -> None:
        self.run = model.load(model.PATH)

    @serve.batch(max_batch_size=model.MAX_BATCH, batch_wait_timeout_s=model.BATCH_WAIT_S)
    async def several(self, inputs: list) -> list:
        cuts = np.cumsum([len(rows) for rows in inputs])[:-1]
        return [part.tolist() for part in np.split(self.run(np.concatenate(inputs)), cuts)]

    async def __call__(self, request: Request) -> dict:
        rows = model.floats((await request.json())["instances"])
        answer = await self.several(rows) if model.BATCHING else self.run(rows).tolist()
        return {"predictions": answer}


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False)
    serve.start(http_options={"host": "127.0.0.1", "port": model.PORT})
    serve.run(Service.bind(), route_prefix="/predict")
    signal.pause()
