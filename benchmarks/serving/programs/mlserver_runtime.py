"""MLServer's custom runtime over the model."""

import numpy as np
import the_model as model
from mlserver import MLModel, types
from mlserver.codecs import NumpyCodec


class Runtime(MLModel):
    async def load(self) -> bool:
        self.run = model.load(model.PATH)
        return True

    async def predict(self, payload: types.InferenceRequest) -> types.InferenceResponse:
        outputs = self.run(NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32))
        return types.InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", outputs)])
