"""PyTorch models behind a real server: on a thread or in a worker process, batched, refused."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from running import run_cli, running

torch = pytest.importorskip("torch")

# What torch warns of in its own code while it exports.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)

    def forward(self, x):
        return {"p": torch.softmax(self.layer(x), 1)}


def script(module, folder):
    torch.jit.trace(module, torch.rand(2, 4), strict=False).save(str(folder / "model.pt"))
    (folder / "signature.json").write_text(json.dumps({"inputs": [{"name": "x", "shape": [None, 4]}]}))


def export(module, folder):
    rows = torch.export.Dim("rows", max=8)
    torch.export.save(
        torch.export.export(module, (torch.rand(2, 4),), dynamic_shapes=({0: rows},)), folder / "model.pt2"
    )


@pytest.mark.parametrize(("save", "in_worker"), [(script, False), (export, True)])
def test_many_callers_get_their_own_rows(tmp_path, save, in_worker):
    module = Net().eval()
    (tmp_path / "1").mkdir()
    save(module, tmp_path / "1")
    x = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    with torch.inference_mode():
        want = module(torch.from_numpy(x))["p"].numpy()
    with running(f"--model_base_path={tmp_path}") as server:

        def call(i):
            rows = x[i : i + 1 + i % 3]
            return np.array(server.post("/", {"data": {"x": rows.tolist()}}).json["p"], np.float32)

        with ThreadPoolExecutor(8) as pool:
            for i, have in enumerate(pool.map(call, range(97))):
                np.testing.assert_allclose(have, want[i : i + 1 + i % 3], rtol=1e-5)
        everything = server.post("/", {"data": {"x": x.tolist()}}).json["p"]
        np.testing.assert_allclose(np.array(everything, np.float32), want, rtol=1e-5)
        refused = server.post("/", {"data": {"x": [[1, 2]]}})
        assert refused.status == 400
        assert refused.error.endswith('input "x": shape [1, 2] does not match [?, 4]')
        assert ("worker" in server.log()) is in_worker


def test_weights_stop_the_server_with_the_way_on(tmp_path):
    (tmp_path / "1").mkdir()
    torch.save(Net().state_dict(), tmp_path / "1" / "model.pt")
    done = run_cli("serve", f"--model_base_path={tmp_path}", "--port=0")
    assert done.returncode == 2
    assert "model.pt: holds weights without the model that they belong to" in done.stderr
