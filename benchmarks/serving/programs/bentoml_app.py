"""BentoML's service over the model, with its own batching; ``max_latency_ms`` is by what it sheds load, not a wait."""

import bentoml
import numpy as np
import the_model as model


@bentoml.service(workers=1, traffic={"timeout": 60, "max_concurrency": 512}, logging={"access": {"enabled": False}})
class Service:
    def __init__(self) -> None:
        self.run = model.load(model.PATH)

    @bentoml.api(batchable=model.BATCHING, max_batch_size=model.MAX_BATCH, max_latency_ms=1000)
    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.run(x.astype(np.float32))
