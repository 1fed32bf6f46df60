"""LitServe with its own batching, one API server and one worker."""

import litserve
import numpy as np
import the_model as model


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.run = model.load(model.PATH)

    def decode_request(self, request: dict) -> np.ndarray:
        return model.floats(request["instances"])

    def batch(self, inputs: list) -> np.ndarray:
        self.cuts = np.cumsum([len(rows) for rows in inputs])[:-1]
        return np.concatenate(inputs)

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.run(x)

    def unbatch(self, output: np.ndarray) -> list:
        return np.split(output, self.cuts)

    def encode_response(self, output: np.ndarray) -> dict:
        return {"predictions": output.tolist()}


if __name__ == "__main__":
    batching = {"max_batch_size": model.MAX_BATCH, "batch_timeout": model.BATCH_WAIT_S} if model.BATCHING else {}
    server = litserve.LitServer(Api(api_path="/predict", **batching), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=model.PORT, num_api_servers=1, generate_client_file=False, log_level="warning")
