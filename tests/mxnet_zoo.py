"""Has MXNet's own Python package make models and their answers: ``python -m mxnet_zoo FOLDER``, a process of its own.

The package wants a numpy that is years older than the one here. It gets along with stand-ins for the names that numpy
has dropped: none of them matters to what is done here, and nothing of this is ever done in the server.

Writes ``FOLDER/<name>/`` with a model's files, and ``FOLDER/<name>.npz`` with an input ``x`` and the outputs that MXNet
itself computes, ``y0``, ``y1`` and so on.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from stfs.platforms.mxnet import find_library

LEFT = ("random", "linalg", "fft", "polynomial", "ma", "ctypeslib", "typing", "testing", "core", "lib", "rec", "char")


def import_mxnet() -> Any:
    library = find_library()
    assert library is not None
    import scipy.sparse  # noqa: F401 - while numpy is still itself

    for kind in (bool, int, float, object, complex, str):
        setattr(np, kind.__name__, kind)
    was = np.__getattr__

    def dropped(name: str) -> Any:
        if name.startswith("__") or name in LEFT:
            return was(name)
        if name.lower() in ("nan", "inf", "pinf", "ninf"):
            return float(name[-3:])
        return lambda *arguments, **more: None

    np.__getattr__ = dropped
    sys.path.append(str(library.parent.parent))
    warnings.simplefilter("ignore")
    import mxnet

    return mxnet


def write(mx: Any, folder: Path) -> None:
    mx.random.seed(3)
    nn = mx.gluon.nn
    sym = mx.sym

    def gluon(name: str, net: Any, x: Any, signature: Any = None, epoch: int = 0) -> None:
        (folder / name).mkdir(parents=True)
        net.initialize(mx.init.Xavier() if name != "lstm" else mx.init.Uniform(1))
        if x.dtype == np.float64:
            net.cast("float64")
        net.hybridize()
        with mx.autograd.record():
            net(x)  # so that the moving means of a batch normalisation are not those that it began with
        keep(name, x, net(x))
        net.export(str(folder / name / "net"), epoch=epoch)
        tell(name, "net", signature)

    def module(name: str, symbol: Any, x: Any, labels: Any = (), signature: Any = None, epoch: int = 0) -> None:
        (folder / name).mkdir(parents=True)
        label_shapes = [(label, (len(x),)) for label in labels] or None
        made = mx.mod.Module(symbol, label_names=list(labels) or None)
        made.bind([("data", x.shape, x.dtype)], label_shapes, for_training=False)
        made.init_params(mx.init.Uniform(1))
        made.forward(mx.io.DataBatch([x], [mx.nd.zeros((len(x),)) for _ in labels]), is_train=False)
        keep(name, x, made.get_outputs())
        made.save_checkpoint(str(folder / name / "net"), epoch)
        tell(name, "net", signature)

    def keep(name: str, x: Any, outputs: Any) -> None:
        outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
        answers = {f"y{i}": output.asnumpy() for i, output in enumerate(outputs)}
        np.savez(folder / f"{name}.npz", x=x.asnumpy(), **answers)

    def tell(name: str, prefix: str, signature: Any) -> None:
        if signature is not None:
            (folder / name / f"{prefix}-signature.json").write_text(json.dumps(signature))

    def data(*shape: int, dtype: str = "float32") -> Any:
        return mx.nd.random.uniform(-1, 1, shape, dtype=dtype)

    def shaped(*shape: int | None, dtype: str = "float32") -> Any:
        return {"inputs": [{"name": "data", "dtype": dtype, "shape": list(shape)}]}

    net = nn.HybridSequential()
    net.add(nn.Conv2D(4, 3, activation="relu"), nn.BatchNorm(), nn.MaxPool2D(), nn.Flatten(), nn.Dense(5))
    gluon("convolution", net, data(5, 1, 8, 8), shaped(1, 1, 8, 8), epoch=3)

    hidden = sym.Activation(sym.FullyConnected(sym.Variable("data"), num_hidden=4, name="fc1"), act_type="tanh")
    loss = sym.SoftmaxOutput(sym.FullyConnected(hidden, num_hidden=3, name="fc2"), name="softmax")
    module("softmax", loss, data(6, 5), ["softmax_label"], epoch=7)

    class Tagger(mx.gluon.HybridBlock):
        def __init__(self) -> None:
            super().__init__()
            with self.name_scope():
                self.embedding = nn.Embedding(20, 6)
                self.lstm = mx.gluon.rnn.LSTM(5, layout="NTC")
                self.dense = nn.Dense(2)

        def hybrid_forward(self, functions: Any, x: Any) -> Any:
            return self.dense(self.lstm(self.embedding(x))), functions.argmax(x, axis=1)

    ids = mx.nd.array([[1, 2, 3], [19, 5, 4], [0, 0, 7]], dtype="int32")
    gluon("lstm", Tagger(), ids, shaped(None, 3, dtype="int32"))

    net = nn.HybridSequential()
    net.add(nn.Dense(3))
    gluon("double", net, data(2, 4, dtype="float64"))

    net = nn.HybridSequential()
    net.add(nn.Conv2D(2, 3, padding=1, activation="relu"), nn.Conv2D(1, 1))
    gluon("any_size", net, data(2, 3, 10, 12), shaped(None, 3, None, None))

    halves = sym.SliceChannel(sym.FullyConnected(sym.Variable("data"), num_hidden=4, name="fc"), num_outputs=2)
    module("halves", sym.Group([halves[1], halves[0] * 2]), data(3, 4))

    fed = sym.Variable("data")
    centred = sym.broadcast_sub(fed, sym.mean(fed, axis=0, keepdims=True))
    module("centred", sym.FullyConnected(centred, num_hidden=2, name="fc"), data(4, 3), signature=shaped(4, 3))

    net = nn.HybridSequential()
    net.add(nn.Dense(3, in_units=4))
    net.initialize()
    (folder / "parameters_only").mkdir()
    net.save_parameters(str(folder / "parameters_only" / "net-0000.params"))


if __name__ == "__main__":
    write(import_mxnet(), Path(sys.argv[1]))
