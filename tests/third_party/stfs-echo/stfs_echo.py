"""Echoes: a ``.echo`` file is JSON such as ``{"gain": 0.5, "delay": 1}``, and answers a sound with its echo."""

import numpy as np

from stfs.errors import InvalidRequest, LoadFailed, PlatformMissing
from stfs.platforms.base import DEFAULT_SIGNATURE, Platform, Servable, model_file, model_files
from stfs.signature import Signature, TensorSpec, can_batch


class EchoPlatform(Platform):
    """model.echo, or a single .echo file"""

    name = "echo"
    extra = "echo"

    def detect(self, path):
        return bool(model_files(path, [".echo"]))

    def load(self, path, options):
        try:
            import json  # your framework: imported here and nowhere else
        except ImportError as error:
            raise PlatformMissing("echo", "", str(error), command="pip install stfs-echo") from error
        file = model_file(path, [".echo"])
        try:
            settings = json.loads(file.read_text())
            return EchoServable(float(settings["gain"]), int(settings["delay"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LoadFailed(f"{file}: not an echo: {error!r}") from error


class EchoServable(Servable):
    """Takes ``sound`` [rows, samples] and gives ``echo`` of the same shape."""

    platform = "echo"
    runtime = "stfs-echo 1.0"

    def __init__(self, gain, delay):
        self._gain, self._delay = gain, delay
        inputs = (TensorSpec("sound", np.dtype("float32"), (None, None)),)
        outputs = (TensorSpec("echo", np.dtype("float32"), (None, None)),)
        self.signatures = {DEFAULT_SIGNATURE: Signature(DEFAULT_SIGNATURE, inputs, outputs, can_batch(inputs, outputs))}

    def run(self, signature_name, inputs):
        sound = inputs["sound"]
        if np.abs(sound).max(initial=0) > 1:
            raise InvalidRequest('"sound" goes beyond -1 to 1')
        echo = sound.copy()
        heard = max(0, sound.shape[1] - self._delay)
        echo[:, self._delay :] += np.float32(self._gain) * sound[:, :heard]
        return {"echo": echo}
