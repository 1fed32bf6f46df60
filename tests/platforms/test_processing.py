"""Functions around a model: what they make of requests and answers, and what is said where they do not fit."""

import gc
import sys
import threading
import weakref

import numpy as np
import pytest
from running import run_cli, running

from stfs.errors import InvalidInput, InvalidRequest, LoadFailed, ModelFailed
from stfs.platforms.base import Servable
from stfs.platforms.processing import find_processing, wrap
from stfs.signature import STRING, Signature, TensorSpec, can_batch

S = "serving_default"
F32 = np.dtype("float32")


def signature(name=S, inputs=None, outputs=None):
    inputs = inputs or (TensorSpec("x", F32, (None, 2)),)
    outputs = outputs or (TensorSpec("y", F32, (None, 2)),)
    return Signature(name, inputs, outputs, can_batch(inputs, outputs))


class Doubling(Servable):
    """``y = 2 x``; refuses a negative number, and remembers the arrays it was given."""

    platform = "doubling"
    runtime = "numpy"

    def __init__(self, *names):
        self.signatures = {name: signature(name) for name in (names or (S,))}
        self.given = []
        self.closed = 0

    def run(self, signature_name, inputs):
        self.given.append(inputs["x"])
        if (inputs["x"] < 0).any():
            raise InvalidInput("x", "is negative")
        return {"y": inputs["x"] * 2}

    def close(self):
        self.closed += 1


@pytest.fixture
def around(tmp_path):
    """Writes a processing.py and wraps a servable in it; closes what it made."""
    made = []

    def make(source, servable=None):
        file = tmp_path / "processing.py"
        file.write_text(source)
        made.append(wrap(servable or Doubling(), file))
        return made[-1]

    yield make
    for servable in made:
        servable.close()


TOKENS = """
import numpy as np
signature = {
    "inputs": [{"name": "text", "dtype": "string", "shape": [None]}],
    "outputs": [{"name": "label", "dtype": "string", "shape": [None]}, {"name": "score", "shape": [None]}],
}

def preprocess(inputs):
    rows = []
    for text in inputs["text"]:
        words = text.decode().split(",")
        if len(words) != 2:
            raise ValueError(f"{text.decode()!r} is not two numbers with a comma")
        rows.append([float(word) for word in words])
    return {"x": np.array(rows)}

def postprocess(outputs):
    total = outputs["y"].sum(axis=1)
    return {"score": total, "label": np.where(total > 5, "große", "small")}
"""


def texts(*values):
    return {"text": np.array(values, dtype=object)}


def test_clients_send_and_get_what_the_file_says(around):
    model = Doubling()
    servable = around(TOKENS, model)
    told = servable.signatures[S]
    assert [(s.name, s.dtype, s.shape) for s in told.inputs] == [("text", STRING, (None,))]
    assert [(s.name, s.dtype, s.shape) for s in told.outputs] == [("label", STRING, (None,)), ("score", F32, (None,))]
    assert told.batchable
    assert (servable.platform, servable.default_signature) == ("doubling", S)
    outputs = servable.run(S, texts(b"1,1", b"2,3"))
    assert list(outputs) == ["label", "score"]
    assert outputs["label"].tolist() == [b"small", "große".encode()]
    np.testing.assert_array_equal(outputs["score"], np.array([4, 10], F32), strict=True)
    assert model.given[-1].dtype == F32


def test_rows_together_are_rows_alone(around):
    servable = around(TOKENS)
    rows = [f"{i},{i / 7}".encode() for i in range(40)]
    together = servable.run(S, texts(*rows))
    for i, row in enumerate(rows):
        alone = servable.run(S, texts(row))
        assert {name: array[0] for name, array in alone.items()} == {k: v[i] for k, v in together.items()}


def test_a_value_error_before_the_model_refuses_the_request(around):
    with pytest.raises(InvalidRequest, match=r"^'1' is not two numbers with a comma$"):
        around(TOKENS).run(S, texts(b"1"))


def test_what_the_model_refuses_is_refused(around):
    with pytest.raises(InvalidInput, match="is negative"):
        around(TOKENS).run(S, texts(b"-1,1"))


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("def preprocess(inputs):\n    return {'x': inputs['z']}\n", r"^processing\.py:2: KeyError: 'z'$"),
        ("def preprocess(inputs):\n    raise SystemExit(3)\n", r"^processing\.py:2: SystemExit: 3$"),
        ("def postprocess(outputs):\n    raise ValueError('odd')\n", r"^processing\.py:2: ValueError: odd$"),
        (
            "def preprocess(inputs):\n    return inputs if (inputs['x'] == 0).all() else {'x': inputs['x'][:1]}\n",
            r'^processing\.py: preprocess made "x" of shape \[1, 2\] from 3 rows$',
        ),
        (
            "def postprocess(outputs):\n    return outputs if (outputs['y'] == 0).all() else {'y': outputs['y'][:1]}\n",
            r'^processing\.py: postprocess made "y" of shape \[1, 2\] from 3 rows$',
        ),
        (
            "def postprocess(outputs):\n    return outputs if (outputs['y'] == 0).all() else {}\n",
            r'^processing\.py: postprocess returned nothing where its signature says "y"$',
        ),
    ],
)
def test_a_function_that_fails_is_the_models_failure(around, source, problem):
    with pytest.raises(ModelFailed, match=problem):
        around(source).run(S, {"x": np.ones((3, 2), F32)})


def test_either_function_may_be_left_out(around):
    x = np.ones((1, 2), F32)
    before = around("def preprocess(inputs):\n    return {'x': inputs['x'] + 1}\n")
    assert before.run(S, {"x": x})["y"].tolist() == [[4, 4]]
    after = around("def postprocess(outputs):\n    return {'y': outputs['y'] + 1}\n")
    assert after.run(S, {"x": x})["y"].tolist() == [[3, 3]]


def test_functions_may_write_into_what_they_get(around):
    servable = around(
        "def preprocess(inputs):\n    inputs['x'] += 1\n    return inputs\n"
        "def postprocess(outputs):\n    outputs['y'] += 1\n    return outputs\n"
    )
    x = np.ones((1, 2), F32)
    x.flags.writeable = False
    assert servable.run(S, {"x": x})["y"].tolist() == [[5, 5]]
    assert x.tolist() == [[1, 1]]


def test_what_a_function_keeps_is_not_what_was_handed_out(around):
    servable = around(
        "import numpy as np\nkept = np.zeros((1, 2), np.float32)\n"
        "def postprocess(outputs):\n    kept[:] = outputs['y']\n    return {'y': kept}\n"
    )
    first = servable.run(S, {"x": np.ones((1, 2), F32)})["y"]
    servable.run(S, {"x": np.full((1, 2), 9, F32)})
    assert first.tolist() == [[2, 2]]


def test_a_function_with_state_serves_many_callers(around):
    servable = around(
        "import time\nimport numpy as np\ncurrent = None\n"
        "def preprocess(inputs):\n"
        "    global current\n    current = inputs['x']\n"
        "    for _ in range(50): time.sleep(0)\n"
        "    return {'x': current}\n"
    )
    wrong = []

    def call(i):
        for _ in range(20):
            y = servable.run(S, {"x": np.full((1, 2), i, F32)})["y"]
            if y.tolist() != [[2 * i, 2 * i]]:
                wrong.append((i, y))

    threads = [threading.Thread(target=call, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_signature_that_is_not_spoken_of_is_not_served(around, caplog):
    one = around(
        "signature = {'inputs': [{'name': 'x', 'shape': (None, 2)}]}\ndef preprocess(i):\n    return i\n",
        Doubling(S, "other"),
    )
    assert list(one.signatures) == [S]
    assert "says nothing of signature other" in caplog.text
    many = around(
        "signatures = {'other': {'inputs': [{'name': 'x', 'shape': [None, 2]}]}}\ndef preprocess(i):\n    return i\n",
        Doubling(S, "other"),
    )
    assert list(many.signatures) == ["other"]
    silent = around("def preprocess(i):\n    return i\n", Doubling(S, "other"))
    assert set(silent.signatures) == {S, "other"}


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("x = 1\n", r"processing\.py: has neither preprocess\(inputs\) nor postprocess\(outputs\)$"),
        ("preprocess = 3\n", r"processing\.py: preprocess is not a function$"),
        ("def preprocess(:\n", r"/processing\.py:1: SyntaxError: "),
        ("import no_such_module\n", r"/processing\.py:1: ModuleNotFoundError: No module named 'no_such_module'$"),
        ("import sys\nsys.exit('no')\n", r"/processing\.py:2: SystemExit: no$"),
        ("a = '\0'\n", r"processing\.py.*: .*null bytes"),
        (
            "def preprocess(i): return i\nsignatures = {'nope': {}}\n",
            r'processing\.py: the model has no signature "nope": ',
        ),
        ("def preprocess(i): return i\nsignature = 3\n", r"processing\.py: signature must be a dict such as"),
        (
            "def preprocess(i): return i\nsignature = {'inputs': [{'shape': [1]}]}\n",
            r'processing\.py: inputs\[0\]: "name"',
        ),
        (
            "def preprocess(i): return {'wrong': i['x']}\n",
            r'/processing\.py: preprocess returned "wrong" where its signature says "x"; if clients .*say it in',
        ),
        (
            "def postprocess(o): return {'label': o['y']}\n",
            r'/processing\.py: postprocess returned "label" where its signature says "y"; if clients',
        ),
        ("def postprocess(o): return [1]\n", "postprocess returned list, not a dict"),
        ("def postprocess(o): return {'y': o['y'][:, :1]}\n", r'"y": shape \[1, 1\] does not match \[\?, 2\]'),
        ("def postprocess(o): return {'y': ['a']}\n", r'"y" holds strings, its signature says float32'),
        ("def preprocess(i): return {'x': [[1], [1, 2]]}\n", r'preprocess: "x": '),
    ],
)
def test_a_file_that_does_not_fit_is_told_at_load(around, source, problem):
    model = Doubling()
    with pytest.raises(LoadFailed, match=problem) as caught:
        around(source, model)
    assert "\n" not in str(caught.value)
    assert model.closed == 0
    assert not [name for name in sys.modules if name.startswith("stfs_user_processing")]


def test_what_is_made_of_an_empty_text_proves_nothing(around):
    servable = around(
        "import numpy as np\nsignature = {'inputs': [{'name': 'text', 'dtype': 'string', 'shape': [None]}]}\n"
        "def preprocess(i): return {'x': np.array([[float(n) for n in text.split()] for text in i['text']])}\n"
    )
    assert servable.run(S, texts(b"1 2"))["y"].tolist() == [[2, 4]]
    with pytest.raises(ModelFailed, match=r'preprocess: "x": shape \[1, 3\] does not match \[\?, 2\]'):
        servable.run(S, texts(b"1 2 3"))


def test_whole_numbers_that_do_not_fit_are_refused_not_wrapped(around):
    servable = around(
        "signature = {'outputs': [{'name': 'n', 'dtype': 'int8', 'shape': [None]}]}\n"
        "def postprocess(o): return {'n': o['y'][:, 0].astype('int64')}\n"
    )
    assert servable.run(S, {"x": np.full((1, 2), 60, F32)})["n"].tolist() == [120]
    with pytest.raises(ModelFailed, match='"n" holds a number that is out of range for int8'):
        servable.run(S, {"x": np.full((1, 2), 70, F32)})


def test_closing_closes_the_model_and_frees_the_functions(tmp_path):
    model = Doubling()
    (tmp_path / "processing.py").write_text("class Big: pass\nbig = Big()\ndef preprocess(i): return i\n")
    servable = wrap(model, tmp_path / "processing.py")
    big = weakref.ref(servable._before.__globals__["big"])
    servable.close()
    assert model.closed == 1
    assert big() is not None
    del servable
    gc.collect()
    assert big() is None


def test_two_versions_each_have_their_own_helper(tmp_path):
    servables = []
    for version in (1, 2):
        folder = tmp_path / str(version)
        (folder / "vocabulary").mkdir(parents=True)
        (folder / "helper.py").write_text(f"from vocabulary.words import base\nADD = base + {version}\n")
        (folder / "vocabulary" / "__init__.py").write_text("")
        (folder / "vocabulary" / "words.py").write_text(f"base = {version * 100}\n")
        (folder / "processing.py").write_text(
            "import helper\ndef preprocess(i):\n    return {'x': i['x'] * 0 + helper.ADD}\n"
        )
        servables.append(wrap(Doubling(), folder / "processing.py"))
        assert not {"helper", "vocabulary", "vocabulary.words"} & sys.modules.keys()
        assert str(folder) not in sys.path
        assert not list(folder.rglob("__pycache__"))
    x = {"x": np.zeros((1, 2), F32)}
    assert [s.run(S, x)["y"][0, 0] for s in servables] == [202, 404]


def test_an_error_in_a_helper_names_the_helper(tmp_path):
    (tmp_path / "helper.py").write_text("\n\nraise OSError('no vocabulary')\n")
    (tmp_path / "processing.py").write_text("import helper\n")
    with pytest.raises(LoadFailed, match=r"/helper\.py:3: OSError: no vocabulary$"):
        wrap(Doubling(), tmp_path / "processing.py")


def test_a_helper_that_would_hide_another_module_is_refused(tmp_path):
    (tmp_path / "json.py").write_text("")
    (tmp_path / "processing.py").write_text("def preprocess(i): return i\n")
    with pytest.raises(LoadFailed, match=r"json, beside processing\.py, would hide .*json.__init__\.py: rename it"):
        wrap(Doubling(), tmp_path / "processing.py")


def test_where_the_file_is_found(tmp_path):
    model = tmp_path / "model.onnx"
    model.write_bytes(b"")
    assert find_processing(tmp_path) is None
    beside = tmp_path / "processing.py"
    beside.write_text("")
    mine = tmp_path / "mine.py"
    mine.write_text("")
    assert find_processing(tmp_path) == find_processing(model) == beside
    assert find_processing(model, mine) == mine
    with pytest.raises(LoadFailed, match=r"none\.py: there is no such file"):
        find_processing(model, tmp_path / "none.py")


@pytest.mark.parametrize("name", ["preprocess_function.marshal", "postprocess_function.marshal"])
def test_bytecode_is_refused_unless_it_is_written_again(tmp_path, name):
    (tmp_path / name).write_bytes(b"\xe3\0")
    with pytest.raises(LoadFailed, match=rf"{name}: holds a function as bytecode.*processing\.py"):
        find_processing(tmp_path / "model.joblib")
    (tmp_path / "processing.py").write_text("")
    assert find_processing(tmp_path / "model.joblib") == tmp_path / "processing.py"


def meta_graph_with(collection, content):
    """A SavedModel's first bytes, by hand: a MetaGraphDef whose map collection_def has one entry of bytes."""

    def field(number, value):
        length = len(value)
        size = bytes([length]) if length < 128 else bytes([length & 127 | 128, length >> 7])
        return bytes([number << 3 | 2]) + size + value

    entry = field(1, collection) + field(2, field(2, field(1, content)))
    return b"\x08\x01" + field(2, field(4, entry))


@pytest.mark.parametrize("size", [3, 200])
def test_bytecode_inside_a_saved_model_is_refused(tmp_path, size):
    (tmp_path / "saved_model.pb").write_bytes(meta_graph_with(b"preprocess_function", b"c" * size))
    with pytest.raises(LoadFailed, match=r"saved_model\.pb: holds preprocess_function as bytecode"):
        find_processing(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(meta_graph_with(b"train_op", b"preprocess_function" * 5))
    assert find_processing(tmp_path) is None
    (tmp_path / "saved_model.pb").write_bytes(b"")
    assert find_processing(tmp_path) is None


@pytest.mark.slow
def test_it_is_served_around_a_model(tmp_path):
    pytest.importorskip("onnxruntime")
    import simple_models

    simple_models.write_linear(tmp_path / "1")
    (tmp_path / "1" / "processing.py").write_text(
        "import numpy as np\n"
        "signature = {'inputs': [{'name': 'text', 'dtype': 'string', 'shape': [None]}],"
        " 'outputs': [{'name': 'total', 'shape': [None]}]}\n"
        "def preprocess(inputs):\n"
        "    return {'x': np.array([[float(n) for n in text.split()] for text in inputs['text']])}\n"
        "def postprocess(outputs):\n    return {'total': outputs['y'].sum(1)}\n"
    )
    with running(f"--model_base_path={tmp_path}") as server:
        body = {"instances": ["1 2 3", "4 5 6"]}
        answer = server.post("/v1/models/default:predict", body)
        assert answer.json == {"predictions": [12.0, 30.0]}, answer.body
        refused = server.post("/v1/models/default:predict", {"instances": ["1 2 three"]})
        assert refused.status == 400
        assert refused.error.endswith("could not convert string to float: b'three'")
        assert "batches" in server.log()


@pytest.mark.slow
def test_bytecode_stops_the_server_with_the_way_on(tmp_path):
    pytest.importorskip("onnxruntime")
    import simple_models

    simple_models.write_linear(tmp_path / "1")
    (tmp_path / "1" / "preprocess_function.marshal").write_bytes(b"\xe3")
    done = run_cli("serve", f"--model_base_path={tmp_path}", "--port=0")
    assert done.returncode == 2
    assert "preprocess_function.marshal: holds a function as bytecode" in done.stderr
    assert "processing.py" in done.stderr
