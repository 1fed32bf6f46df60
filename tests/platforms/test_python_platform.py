"""Models in plain Python: what a file may look like, and what is said of one that does not fit."""

import gc
import pickle
import sys
import threading
import weakref

import numpy as np
import pytest
from running import running

from stfs.errors import InvalidRequest, LoadFailed, ModelFailed
from stfs.platforms import detect, find
from stfs.platforms.base import LoadOptions
from stfs.platforms.python import PythonPlatform
from stfs.signature import STRING

S = "serving_default"
SIGNATURE = """
signature = {
    "inputs": [{"name": "x", "dtype": "float32", "shape": [None, 2]}],
    "outputs": [{"name": "y", "dtype": "float32", "shape": [None]}],
}
"""
FUNCTION = SIGNATURE + "def predict(inputs):\n    return {'y': inputs['x'].sum(axis=1)}\n"
X = np.array([[1, 2], [3, 4]], np.float32)


@pytest.fixture
def served(tmp_path):
    """Writes model.py and loads the folder; closes what it made."""
    made = []

    def make(source, **options):
        (tmp_path / "model.py").write_text(source)
        made.append(PythonPlatform().load(tmp_path, LoadOptions(**options)))
        return made[-1]

    yield make
    for servable in made:
        servable.close()


def test_a_function_answers(served):
    servable = served(FUNCTION)
    assert servable.signatures[S].batchable
    assert servable.runtime.startswith("Python 3.")
    np.testing.assert_array_equal(servable.run(S, {"x": X})["y"], np.array([3, 7], np.float32), strict=True)


def test_a_class_gets_its_folder_and_is_closed(served, tmp_path):
    np.save(tmp_path / "weights.npy", np.array([10, 1], np.float32))
    servable = served(
        """
import numpy as np

class Model:
    signature = {"inputs": [{"name": "x", "shape": (None, 2)}], "outputs": [{"name": "y", "shape": (None,)}]}

    def __init__(self, folder):
        self.folder = folder
        self.weights = np.load(folder / "weights.npy")

    def predict(self, inputs):
        return {"y": inputs["x"] @ self.weights}

    def close(self):
        (self.folder / "closed").write_text("")
"""
    )
    assert servable.run(S, {"x": X})["y"].tolist() == [12, 34]
    assert not (tmp_path / "closed").exists()
    servable.close()
    assert (tmp_path / "closed").exists()


@pytest.mark.parametrize(
    "source",
    [
        SIGNATURE + "def load(folder):\n    global n\n    n = len(folder.name) * 0 + 1\n"
        "def predict(inputs):\n    return {'y': inputs['x'][:, 0] + n}\n",
        "class Anything:\n" + SIGNATURE.replace("\n", "\n    ") + "\n    def predict(self, inputs):\n"
        "        return {'y': inputs['x'][:, 0] + 1}\n\ndef load():\n    return Anything()\n",
        "class Model:\n    def __init__(self): self.n = 1\n"
        + SIGNATURE.replace("\n", "\n    ")
        + "\n    def predict(self, inputs):\n        return {'y': inputs['x'][:, 0] + self.n}\n",
        "class Model:\n    @property\n    def signature(self):\n"
        + SIGNATURE.replace("\n", "\n        ")
        + "\n        return signature\n    def predict(self, inputs):\n        return {'y': inputs['x'][:, 0] + 1}\n",
        "class Model:\n    '''A network, say.'''\n"
        + SIGNATURE
        + "def predict(inputs):\n    return {'y': inputs['x'][:, 0] + 1}\n",
        "import numpy as np\nfrom stfs.signature import Signature, TensorSpec\n"
        "X = TensorSpec('x', np.dtype('float32'), (None, 2))\nY = TensorSpec('y', np.dtype('float32'), (None,))\n"
        "signature = {'inputs': [X], 'outputs': (Y,)}\n"
        "def predict(inputs):\n    return {'y': inputs['x'][:, 0] + 1}\n",
        "import numpy as np\nfrom stfs.signature import Signature, TensorSpec\n"
        "X = TensorSpec('x', np.dtype('float32'), (None, 2))\nY = TensorSpec('y', np.dtype('float32'), (None,))\n"
        "signature = Signature('any', (X,), (Y,), True)\n"
        "def predict(inputs):\n    return {'y': inputs['x'][:, 0] + 1}\n",
    ],
    ids=["load", "made by load", "no folder", "property", "class beside predict", "specs", "signature object"],
)
def test_every_way_to_say_it(served, source):
    servable = served(source)
    assert list(servable.signatures) == [S]
    assert servable.signatures[S].batchable
    assert servable.run(S, {"x": X})["y"].tolist() == [2, 4]


def test_several_signatures(served):
    servable = served(
        """
import numpy as np
text = {"name": "text", "dtype": "string", "shape": [None]}
signatures = {
    "serving_default": {"inputs": [text], "outputs": [{"name": "upper", "dtype": "string", "shape": [None]}]},
    "length": {"inputs": [text], "outputs": [{"name": "n", "dtype": "int64", "shape": [None]}], "batchable": False},
}
def predict(inputs):
    return {"upper": [text.decode().upper() for text in inputs["text"]]}
def length(inputs):
    return {"n": np.array([len(text) for text in inputs["text"]])}
"""
    )
    assert (servable.default_signature, servable.signatures["length"].batchable) == (S, False)
    text = {"text": np.array(["naïve".encode(), b""], object)}
    upper = servable.run(S, text)["upper"]
    assert (upper.dtype, upper.tolist()) == (STRING, ["NAÏVE".encode(), b""])
    np.testing.assert_array_equal(servable.run("length", text)["n"], np.array([6, 0]), strict=True)


def test_values_and_missing_ones_are_told(served):
    told = (
        served(
            "signature = {'inputs': [{'name': 'c', 'dtype': 'string', 'shape': [None], 'values': ['red', 'blue'],"
            " 'nullable': True, 'doc': 'colour'}], 'outputs': [{'name': 'n', 'shape': [None]}]}\n"
            "def predict(inputs):\n    return {'n': [['red', 'blue'].index(c.decode()) for c in inputs['c']]}\n"
        )
        .signatures[S]
        .inputs[0]
    )
    assert (told.values, told.nullable, told.doc) == (("red", "blue"), True, "colour")


def test_the_signature_may_stand_beside(served, tmp_path):
    (tmp_path / "signature.json").write_text(
        '{"inputs": [{"name": "x", "shape": [null, 2]}], "outputs": [{"name": "y", "shape": [null]}]}'
    )
    assert served(FUNCTION.replace(SIGNATURE, "")).run(S, {"x": X})["y"].tolist() == [3, 7]


def test_rows_together_are_rows_alone(served):
    servable = served(FUNCTION)
    x = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    together = servable.run(S, {"x": x})["y"]
    for i in range(len(x)):
        assert servable.run(S, {"x": x[i : i + 1]})["y"][0] == together[i]


def test_concurrent_callers_get_their_own_rows_from_a_model_with_state(served):
    servable = served(
        SIGNATURE + "import time\nclass Model:\n    signature = signature\n"
        "    def predict(self, inputs):\n        self.x = inputs['x']\n"
        "        for _ in range(50): time.sleep(0)\n        return {'y': self.x[:, 0]}\n"
    )
    wrong = []

    def call(i):
        for _ in range(20):
            if servable.run(S, {"x": np.full((2, 2), i, np.float32)})["y"].tolist() != [i, i]:
                wrong.append(i)

    threads = [threading.Thread(target=call, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_memory_is_not_shared(served):
    servable = served(
        SIGNATURE.replace("[None]", "[None, 2]")
        + "def predict(inputs):\n    inputs['x'] *= 2\n    return {'y': inputs['x']}\n"
    )
    x = X.copy()
    x.flags.writeable = False
    outputs = servable.run(S, {"x": x})["y"]
    assert (outputs.tolist(), x.tolist()) == ([[2, 4], [6, 8]], X.tolist())
    assert not np.may_share_memory(outputs, x)


def test_two_versions_and_what_is_freed(tmp_path):
    made = []
    for version in (1, 2):
        folder = tmp_path / str(version)
        folder.mkdir()
        (folder / "helper.py").write_text(f"class Adder:\n    n = {version}\n")
        (folder / "model.py").write_text(
            "from helper import Adder\nclass Model:\n    signature = {'inputs': [{'name': 'x', 'shape': [None]}],"
            " 'outputs': [{'name': 'y', 'shape': [None]}]}\n"
            "    def __init__(self, folder): self.adder = Adder()\n"
            "    def predict(self, inputs): return {'y': inputs['x'] + self.adder.n}\n"
        )
        made.append(PythonPlatform().load(folder, LoadOptions()))
    x = {"x": np.zeros(1, np.float32)}
    assert [servable.run(S, x)["y"][0] for servable in made] == [1, 2]
    first = made.pop(0)
    kinds = [weakref.ref(type(first._model)), weakref.ref(type(first._model.adder))]
    first.close()
    del first
    gc.collect()
    assert [kind() for kind in kinds] == [None, None]
    assert made[0].run(S, x)["y"][0] == 2
    made[0].close()
    assert not [name for name in sys.modules if name.startswith("stfs_user_model") or name == "helper"]


def test_a_pickle_may_hold_classes_of_a_helper(tmp_path):
    (tmp_path / "helper.py").write_text("class Adder:\n    def __init__(self, n): self.n = n\n")
    sys.path.insert(0, str(tmp_path))
    try:
        import helper

        (tmp_path / "adder.dat").write_bytes(pickle.dumps(helper.Adder(5)))
    finally:
        sys.path.remove(str(tmp_path))
        del sys.modules["helper"]
    (tmp_path / "model.py").write_text(
        SIGNATURE + "import pickle\nfrom helper import Adder\n"
        "def load(folder):\n    global adder\n    adder = pickle.loads((folder / 'adder.dat').read_bytes())\n"
        "    assert isinstance(adder, Adder)\n"
        "def predict(inputs): return {'y': inputs['x'][:, 0] + adder.n}\n"
    )
    servable = PythonPlatform().load(tmp_path, LoadOptions())
    assert servable.run(S, {"x": X})["y"].tolist() == [6, 8]
    servable.close()


def test_an_edited_file_is_read_again_though_its_time_is_the_same(tmp_path):
    for n in (1, 2):
        (tmp_path / "model.py").write_text(FUNCTION + f"n = {n}\n")
        servable = PythonPlatform().load(tmp_path, LoadOptions())
        assert servable._code.module.n == n
        servable.close()


@pytest.mark.parametrize(
    ("body", "kind", "problem"),
    [
        ("    raise ValueError('x must be positive')", InvalidRequest, "^x must be positive$"),
        ("    return {'y': 1 / len(inputs['z'])}", ModelFailed, r"^model\.py:8: KeyError: 'z'$"),
        ("    raise SystemExit('enough')", ModelFailed, r"^model\.py:8: SystemExit: enough$"),
        ("    raise RuntimeError('one\\ntwo')", ModelFailed, r"^model\.py:8: RuntimeError: one$"),
        (
            "    if inputs['x'].any(): return {'y': [0]}\n    return {'y': [0] * len(inputs['x'])}",
            ModelFailed,
            r'^model\.py: predict made "y" of shape \[1\] from 2 rows$',
        ),
        (
            "    return {'y': [0] * len(inputs['x'])} if not inputs['x'].any() else None",
            ModelFailed,
            r"^model\.py: predict returned NoneType, not a dict",
        ),
    ],
)
def test_errors_in_a_run(served, body, kind, problem):
    servable = served(SIGNATURE + f"def predict(inputs):\n\n{body}\n")
    with pytest.raises(kind, match=problem) as caught:
        servable.run(S, {"x": X})
    assert type(caught.value) is kind or kind is ModelFailed


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (
            "def predict(inputs): pass\n",
            r'model\.py: does not say what it takes and gives: add signature = \{"inputs": ',
        ),
        (SIGNATURE, r"model\.py: there is no predict\(inputs\) to answer signature"),
        (
            SIGNATURE + "async def predict(inputs): pass\n",
            r"model\.py: predict is async, which cannot be served: write",
        ),
        (SIGNATURE + "def predict(inputs): return {'z': 1}\n", r'/model\.py: predict returned "z" where .* says "y"$'),
        (SIGNATURE + "def predict(inputs): return {'y': ['a']}\n", r'"y" holds strings, its signature says float32$'),
        (SIGNATURE + "def predict(inputs): return {'y': 1.5}\n", r'"y": shape \[\] does not match \[\?\]$'),
        ("signature = 3\ndef predict(inputs): pass\n", r"model\.py: signature must be a dict"),
        ("signatures = []\ndef predict(inputs): pass\n", r"model\.py: signatures must be a dict"),
        ("signature = signatures = {}\ndef predict(inputs): pass\n", "says both signature and signatures"),
        (
            "signature = {'inputs': [{'name': 'x'}]}\ndef predict(inputs): pass\n",
            r"model\.py: the signature lists no outputs",
        ),
        (SIGNATURE.replace("float32", "float23") + "def predict(i): pass\n", r"model\.py: inputs\[0\]: unknown dtype"),
        (SIGNATURE + "signature['batchable'] = 1\ndef predict(i): pass\n", '"batchable" must be True or False'),
        ("def predict(inputs:\n", r"/model\.py:1: SyntaxError"),
        ("\nimport nothing_of_that_name\n", r"/model\.py:2: ModuleNotFoundError: No module named 'nothing_of"),
        (
            "class Model:\n    def __init__(self, folder):\n        open(folder / 'weights.bin')\n",
            r"/model\.py:3: FileNotFoundError: .*weights\.bin",
        ),
        ("class Model:\n    def __init__(self, folder, more): pass\n", r"/model\.py: TypeError: .*missing.*'folder'"),
        ("def load(folder):\n    import sys\n    sys.exit('no licence')\n", r"/model\.py:3: SystemExit: no licence$"),
    ],
)
def test_errors_at_load(served, source, problem):
    with pytest.raises(LoadFailed, match=problem) as caught:
        served(source)
    assert "\n" not in str(caught.value)
    assert not [name for name in sys.modules if name.startswith("stfs_user_model")]


def test_a_model_that_does_not_load_is_closed(served, tmp_path):
    with pytest.raises(LoadFailed, match="does not say what it takes"):
        served(
            "class Model:\n    def __init__(self, folder): self.folder = folder\n"
            "    def close(self): (self.folder / 'closed').write_text('')\n"
        )
    assert (tmp_path / "closed").exists()


def test_an_error_while_closing_is_told_in_the_log(served, caplog):
    served(
        "class Model:" + SIGNATURE.replace("\n", "\n    ") + "\n    def predict(self, inputs): return {'y': [0.0]}\n"
        "    def close(self): raise OSError('busy')\n"
    ).close()
    assert "did not close: model.py:" in caplog.text
    assert "OSError: busy" in caplog.text


NETWORK = "class Model:\n    def forward(self, x):\n        return x\n"


@pytest.mark.parametrize(
    ("files", "claimed"),
    [
        ({"model.py": FUNCTION}, True),
        ({"mine.py": FUNCTION}, True),
        ({"mine.py": FUNCTION, "processing.py": "def preprocess(i): return i\n"}, True),
        ({"model.py": FUNCTION, "helper.py": ""}, True),
        ({"model.py": "def predict(inputs): pass\n", "signature.json": "{}"}, True),
        ({"processing.py": FUNCTION}, False),
        ({"model.onnx": "", "processing.py": FUNCTION}, False),
        ({"model.onnx": "", "train.py": NETWORK}, False),
        ({"model.pt": "", "model.py": NETWORK}, False),
        ({"model.joblib": "", "score.py": "def predict(rows): pass\n"}, False),
        ({"one.py": FUNCTION, "two.py": FUNCTION}, False),
        ({"train.py": "print('hello')\n"}, False),
        ({}, False),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else None,
)
def test_which_folders_are_python_models(tmp_path, files, claimed):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    assert PythonPlatform().detect(tmp_path) is claimed


def test_a_file_may_be_named(tmp_path):
    (tmp_path / "mine.py").write_text(FUNCTION)
    (tmp_path / "processing.py").write_text("")
    assert detect(tmp_path / "mine.py") is find("python")
    assert not PythonPlatform().detect(tmp_path / "processing.py")
    assert not PythonPlatform().detect(tmp_path / "none.py")
    servable = PythonPlatform().load(tmp_path / "mine.py", LoadOptions())
    assert servable.run(S, {"x": X})["y"].tolist() == [3, 7]
    servable.close()
    assert PythonPlatform().isolation_for(tmp_path) == "process"


def test_code_that_serves_another_platforms_file_is_not_passed_over(tmp_path):
    """Serving the pickle as it is, without the code that was written for it, would give other answers."""
    (tmp_path / "model.py").write_text(FUNCTION)
    (tmp_path / "weights.joblib").write_bytes(b"")
    with pytest.raises(LoadFailed, match="python and of scikitlearn; say which"):
        detect(tmp_path)


@pytest.mark.slow
def test_it_is_served_from_a_process_of_its_own(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "helper.py").write_text("import os\npid = os.getpid()\n")
    (tmp_path / "1" / "model.py").write_text(
        "import helper\nimport numpy as np\n"
        "signature = {'inputs': [{'name': 'x', 'shape': [None, 2]}],"
        " 'outputs': [{'name': 'y', 'shape': [None]}, {'name': 'pid', 'dtype': 'int64', 'shape': [None]}]}\n"
        "def predict(inputs):\n"
        "    if (inputs['x'] < 0).any(): raise ValueError('x is negative')\n"
        "    if (inputs['x'] == 7).any(): raise KeyError('seven')\n"
        "    return {'y': inputs['x'].sum(1), 'pid': np.full(len(inputs['x']), helper.pid)}\n"
    )
    with running(f"--model_base_path={tmp_path}") as server:
        answer = server.post("/", {"data": {"x": [[1, 2], [3, 4]]}})
        assert answer.json["y"] == [3.0, 7.0], answer.body
        assert set(answer.json["pid"]).isdisjoint({server.process.pid})
        refused = server.post("/", {"data": {"x": [[-1, 2]]}})
        assert refused.status == 400
        assert refused.error.endswith("x is negative")
        failed = server.post("/", {"data": {"x": [[7, 2]]}})
        assert failed.status == 500
        assert "model.py:6: KeyError: 'seven'" in failed.error
        assert server.post("/", {"data": {"x": [[1, 2]]}}).json["y"] == [3.0]
    assert {path.name for path in (tmp_path / "1").iterdir()} == {"helper.py", "model.py"}
