"""The model behind Triton's Python backend: one run for all requests of a batch."""

import os
import sys

sys.path.append(os.environ["BENCH_PROGRAMS"])

import numpy as np
import the_model as model
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, args: dict) -> None:
        self.run = model.load(model.PATH)

    def execute(self, requests: list) -> list:
        inputs = [triton.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        outputs = np.asarray(self.run(np.concatenate(inputs)), np.float32)
        parts = np.split(outputs, np.cumsum([len(rows) for rows in inputs])[:-1])
        return [triton.InferenceResponse([triton.Tensor("y", part)]) for part in parts]
