"""PMML models in their worker process, against the arithmetic of files written by hand and a tree read from its XML."""

from __future__ import annotations

import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pmml_models
import pytest
from running import SHARED_MODELS

from stfs.errors import InvalidInput, InvalidRequest, LoadFailed
from stfs.platforms.base import LoadOptions, Servable
from stfs.platforms.loading import Hosting, open_servable
from stfs.platforms.pmml import PmmlPlatform

pytestmark = pytest.mark.slow
pytest.importorskip("jpype")
pytest.importorskip("jpmml_evaluator")

S = "serving_default"
IRIS = SHARED_MODELS / "pmml_iris" / "DecisionTreeIris.pmml"
Load = Callable[[Path], Servable]


def open_pmml(path: Path) -> Servable:
    return open_servable(PmmlPlatform(), path, LoadOptions(), Hosting())


@pytest.fixture(scope="module")
def jvm(tmp_path_factory) -> Iterator[None]:
    """A model that stays open, so that the models of all tests share one JVM."""
    held = open_pmml(pmml_models.regression(tmp_path_factory.mktemp("held")))
    yield
    held.close()


@pytest.fixture
def load(jvm) -> Iterator[Load]:
    opened: list[Servable] = []

    def load_one(path: Path) -> Servable:
        opened.append(open_pmml(path))
        return opened[-1]

    yield load_one
    for servable in opened:
        servable.close()


def ask(servable: Servable, **columns: list[object]) -> dict[str, list[object]]:
    """One call through the signature's own checks, lists in and lists out; text is str, what is missing is None."""
    signature = servable.signatures[S]
    arrays = {}
    for name, values in columns.items():
        spec = signature.input(name)
        if spec.dtype == object:
            arrays[name] = np.array([(value or "").encode() for value in values], object)
        else:
            arrays[name] = np.array([np.nan if value is None else value for value in values])
    outputs = servable.run(S, signature.bind(arrays))
    assert list(outputs) == [spec.name for spec in signature.outputs]
    for spec in signature.outputs:
        assert outputs[spec.name].dtype == spec.dtype
    return {name: [v.decode() if isinstance(v, bytes) else v for v in a.tolist()] for name, a in outputs.items()}


def read_tree(path: Path) -> Callable[[dict[str, float]], tuple[str, dict[str, float], str]]:
    """An independent reading of a file whose nodes hold simple predicates: score, class probabilities, node id."""
    space = {"p": "http://www.dmg.org/PMML-4_2"}
    root = ElementTree.parse(path).getroot().find("p:TreeModel/p:Node", space)
    holds = {"lessThan": lambda x, y: x < y, "greaterOrEqual": lambda x, y: x >= y}

    def descend(node, row):
        children = node.findall("p:Node", space)
        if not children:
            shares = {
                each.get("value"): float(each.get("confidence")) for each in node.findall("p:ScoreDistribution", space)
            }
            return node.get("score"), shares, node.get("id")
        for child in children:
            predicate = child.find("p:SimplePredicate", space)
            value = row[predicate.get("field")]
            if np.isnan(value):
                return descend(next(c for c in children if c.get("id") == node.get("defaultChild")), row)
            if holds[predicate.get("operator")](value, float(predicate.get("value"))):
                return descend(child, row)
        raise AssertionError("no branch was taken")

    return lambda row: descend(root, row)


iris = pytest.mark.skipif(not IRIS.is_file(), reason="shared/models/pmml_iris is not beside this checkout")


@iris
def test_iris_signature(load):
    servable = load(IRIS.parent)
    signature = servable.signatures[S]
    assert signature.batchable
    assert [(s.name, s.dtype_name, s.shape, s.nullable, s.values) for s in signature.inputs] == [
        (name, "float64", (None,), True, ()) for name in ("Sepal_Length", "Sepal_Width", "Petal_Length", "Petal_Width")
    ]
    assert signature.inputs[2].doc == "continuous double, [1.0 to 6.9]"
    assert [(s.name, s.dtype_name, s.shape) for s in signature.outputs] == [
        ("Species", "string", (None,)),
        *((f"Probability_{name}", "float64", (None,)) for name in ("setosa", "versicolor", "virginica")),
        ("Node_Id", "string", (None,)),
    ]
    assert servable.runtime.startswith("jpmml-evaluator 1.")


def iris_rows(rows: int, seed: int = 0) -> dict[str, list[float | None]]:
    generator = np.random.default_rng(seed)
    ranges = {"Sepal_Length": (4.3, 7.9), "Sepal_Width": (2, 4.4), "Petal_Length": (1, 6.9), "Petal_Width": (0.1, 2.5)}
    return {
        name: [None if missing else value for value, missing in zip(values, gone, strict=True)]
        for name, (low, high) in ranges.items()
        for values, gone in [(generator.uniform(low, high, rows).tolist(), generator.random(rows) < 0.1)]
    }


@iris
@pytest.mark.parametrize("rows", [1, 2, 63, 400])
def test_iris_against_the_tree_read_by_hand(load, rows):
    tree = read_tree(IRIS)
    columns = iris_rows(rows)
    have = ask(load(IRIS), **columns)
    for i in range(rows):
        row = {name: np.nan if values[i] is None else values[i] for name, values in columns.items()}
        score, shares, node = tree(row)
        assert (have["Species"][i], have["Node_Id"][i]) == (score, node)
        assert {name: have[f"Probability_{name}"][i] for name in shares} == pytest.approx(shares, abs=1e-12)


@iris
def test_rows_together_answer_as_rows_alone(load):
    servable = load(IRIS)
    columns = iris_rows(100, seed=3)
    together = ask(servable, **columns)
    for i in range(100):
        alone = ask(servable, **{name: [values[i]] for name, values in columns.items()})
        assert alone == {name: [values[i]] for name, values in together.items()}


@iris
def test_a_value_outside_its_interval_is_told_with_field_and_row(load):
    servable = load(IRIS)
    columns = iris_rows(5)
    columns["Petal_Length"][3] = 99.0
    with pytest.raises(InvalidInput) as caught:
        ask(servable, **columns)
    assert str(caught.value) == 'input "Petal_Length", row 3: 99.0 is not valid here: it takes [1.0 to 6.9]'
    with pytest.raises(InvalidInput, match=r'^input "Petal_Length": 99\.0 is not valid here'):
        ask(servable, **{name: [values[3]] for name, values in columns.items()})


@iris
def test_concurrent_callers_get_their_own_rows(load):
    servable = load(IRIS)
    asked = [iris_rows(7, seed=seed) for seed in range(8)]
    wants = [ask(servable, **columns) for columns in asked]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(30):
            if ask(servable, **asked[i]) != wants[i]:
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_regression(load, tmp_path):
    servable = load(pmml_models.regression(tmp_path))
    assert [(s.name, s.dtype_name, s.values) for s in servable.signatures[S].inputs] == [
        ("a", "float64", ()),
        ("b", "float64", ()),
        ("c", "string", ("red", "green", "blue")),
    ]
    answers = ask(servable, a=[1, -2, 0.25], b=[0, 0.5, 2], c=["red", "green", "blue"])
    assert answers == {"y": [0.5 + 2 + 1, 0.5 - 4 - 0.75 - 1, 0.5 + 0.5 - 12]}
    assert ask(servable, a=[], b=[], c=[]) == {"y": []}


def test_a_missing_value_that_nothing_replaces_makes_the_answer_missing(load, tmp_path):
    servable = load(pmml_models.regression(tmp_path))
    y = ask(servable, a=[None, 1], b=[0, 0], c=["red", "red"])["y"]
    assert np.isnan(y[0])
    assert y[1] == 3.5


def test_a_missing_value_is_replaced_as_the_file_says(load, tmp_path):
    servable = load(
        pmml_models.regression(
            tmp_path,
            a='missingValueReplacement="10" missingValueTreatment="asMean"',
            c='missingValueReplacement="green" missingValueTreatment="asMode"',
        )
    )
    assert servable.signatures[S].input("a").nullable
    assert servable.signatures[S].input("a").doc == "continuous double, missing is 10.0"
    assert ask(servable, a=[None, None], b=[0, 0], c=["red", None]) == {"y": [0.5 + 20 + 1, 0.5 + 20 - 1]}


def test_a_field_that_must_not_miss(load, tmp_path):
    servable = load(pmml_models.regression(tmp_path, a='missingValueTreatment="returnInvalid"'))
    assert not servable.signatures[S].input("a").nullable
    with pytest.raises(InvalidInput, match=r'^input "a", row 1: a value is missing, and the model needs one$'):
        ask(servable, a=[1, None], b=[0, 0], c=["red", "red"])


def test_an_unknown_category_is_refused_with_the_known_ones(load, tmp_path):
    servable = load(pmml_models.regression(tmp_path))
    with pytest.raises(InvalidInput, match=r"purple.*red.*green.*blue"):
        ask(servable, a=[1], b=[0], c=["purple"])
    # The evaluator's own refusal, which counts where the signature did not check.
    inputs = {"a": np.ones(2), "b": np.ones(2), "c": np.array([b"red", b"purple"], object)}
    with pytest.raises(InvalidInput) as caught:
        servable.run(S, inputs)
    told = 'input "c", row 1: \'purple\' is not valid here: it takes one of "red", "green", "blue"'
    assert str(caught.value) == told


@pytest.mark.parametrize(
    ("treatment", "y"),
    [
        ('invalidValueTreatment="asIs"', 2.5),  # no coefficient for it
        ('invalidValueTreatment="asMissing" missingValueReplacement="red"', 3.5),
        ('invalidValueTreatment="asValue" invalidValueReplacement="green"', 1.5),
    ],
)
def test_an_unknown_category_is_treated_as_the_file_says(load, tmp_path, treatment, y):
    servable = load(pmml_models.regression(tmp_path, c=treatment))
    spec = servable.signatures[S].input("c")
    assert spec.values == ()  # for any is taken
    assert 'one of "red", "green", "blue"' in spec.doc
    assert ask(servable, a=[1], b=[0], c=["purple"]) == {"y": [y]}


def test_a_scorecard_with_reason_codes(load, tmp_path):
    servable = load(pmml_models.scorecard(tmp_path))
    assert [(s.name, s.dtype_name, s.nullable) for s in servable.signatures[S].inputs] == [
        ("age", "float64", True),
        ("house", "bool", False),
    ]
    answers = ask(servable, age=[20, 20, 45], house=[True, False, False])
    assert answers["score"] == [100 - 10 + 25, 100 - 10 + 0, 100 + 15 + 0]
    assert answers["reason"] == ["YOUNG", "YOUNG", "HOUSELESS"]
    assert "hidden" not in answers
    with pytest.raises(InvalidInput, match=r'^input "age": 20\.5 is not valid here'):
        ask(servable, age=[20.5], house=[True])


def test_a_neural_network_with_integer_classes(load, tmp_path):
    servable = load(pmml_models.neural_network(tmp_path))
    x = np.random.default_rng(2).normal(size=(50, 3))
    answers = ask(servable, x0=x[:, 0].tolist(), x1=x[:, 1].tolist(), x2=x[:, 2].tolist())
    hidden = np.tanh(x @ np.array(pmml_models.WEIGHTS).T + pmml_models.BIASES)
    scores = np.exp(hidden @ np.array(pmml_models.LAST).T)
    want = scores / scores.sum(axis=1, keepdims=True)
    assert answers["y"] == want.argmax(axis=1).tolist()
    assert {type(value) for value in answers["y"]} == {int}
    have = np.column_stack([answers["probability(0)"], answers["probability(1)"]])
    np.testing.assert_allclose(have, want, rtol=1e-12)


def test_integer_categories_are_text_and_an_unnamed_target_is_the_prediction(load, tmp_path):
    servable = load(pmml_models.integer_categories(tmp_path))
    spec = servable.signatures[S].inputs[0]
    assert (spec.dtype_name, spec.values) == ("string", ("1", "4", "7"))
    assert ask(servable, level=["1", "4", "7", "4"])["prediction"] == ["odd", "even", "odd", "even"]


def test_text_that_is_not_utf8(load, tmp_path):
    servable = load(pmml_models.regression(tmp_path, c='invalidValueTreatment="asIs"'))
    inputs = {"a": np.ones(1), "b": np.ones(1), "c": np.array([b"\xff\xfe"], object)}
    with pytest.raises(InvalidInput, match='input "c": not UTF-8'):
        servable.run(S, inputs)


def test_baskets_are_refused(load, tmp_path):
    path = pmml_models.association(tmp_path)
    with pytest.raises(LoadFailed, match=r"associationRules takes sets of records") as caught:
        load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "this is no PMML"),
        ("hello", "this is no PMML"),
        ("<html/>", "this is no PMML"),
        (pmml_models.document(pmml_models.field("x"), "", version="9.9"), "is PMML 9.9, and jpmml-evaluator"),
        (pmml_models.document(pmml_models.field("x"), "<NoSuchModel/>"), "is PMML 4.4 and does not read, line 4"),
        (pmml_models.document(pmml_models.field("x"), ""), "model"),
    ],
)
def test_files_that_are_refused(load, tmp_path, text, told):
    path = pmml_models.write(tmp_path, text)
    with pytest.raises(LoadFailed) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_truncated_file(load, tmp_path):
    path = pmml_models.regression(tmp_path)
    path.write_text(path.read_text()[:-200])
    with pytest.raises(LoadFailed, match=r"is PMML 4\.4 and does not read, line \d+: XML document structures"):
        load(path)


def test_a_file_that_its_own_verification_refutes(load, tmp_path):
    path = pmml_models.regression(tmp_path)
    wrong = (
        '<ModelVerification recordCount="1"><VerificationFields>'
        + "".join(f'<VerificationField field="{name}" column="{name}"/>' for name in "abcy")
        + "</VerificationFields><InlineTable><row><a>1</a><b>0</b><c>red</c><y>99</y></row></InlineTable>"
        + "</ModelVerification>"
    )
    path.write_text(path.read_text().replace("</RegressionModel>", f"{wrong}</RegressionModel>"))
    with pytest.raises(LoadFailed, match=r"model\.pmml: "):
        load(path)


def test_detection(tmp_path):
    path = pmml_models.regression(tmp_path / "model")
    platform = PmmlPlatform()
    assert platform.detect(path)
    assert platform.detect(path.parent)
    assert not platform.detect(tmp_path)
    assert not platform.detect(tmp_path / "nothing")


def test_an_error_names_no_row_of_another_request(load, tmp_path):
    """What the batcher does with a bad row among good ones: the halves answer, and the bad row is told alone."""
    servable = load(pmml_models.regression(tmp_path))
    good = {"a": np.ones(1), "b": np.zeros(1), "c": np.array([b"red"], object)}
    bad = dict(good, c=np.array([b"purple"], object))
    both = {name: np.concatenate([good[name], bad[name]]) for name in good}
    with pytest.raises(InvalidRequest):
        servable.run(S, both)
    assert servable.run(S, good)["y"].tolist() == [3.5]
    with pytest.raises(InvalidInput, match=r'^input "c": '):
        servable.run(S, bad)


CYCLES = """
import sys
import gc
from pathlib import Path
import numpy as np
from stfs.platforms import jvm
from stfs.platforms.base import LoadOptions
from stfs.platforms.pmml import PmmlPlatform

def resident_kib():
    return int(next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in line).split()[1])

def cycle():
    servable = PmmlPlatform().load(Path(sys.argv[1]), LoadOptions(jvm_heap_bytes=64 << 20))
    inputs = {"a": np.ones(40), "b": np.zeros(40), "c": np.array([b"red"] * 40, object)}
    assert servable.run("serving_default", inputs)["y"].tolist() == [3.5] * 40
    servable.close()

for _ in range(60):
    cycle()
import jpype
memory = jpype.JClass("java.lang.Runtime").getRuntime()
used = lambda: (gc.collect(), jvm.collect(), int(memory.totalMemory() - memory.freeMemory()))[2]
before, resident = used(), resident_kib()
for _ in range(200):
    cycle()
print(used() - before, resident_kib() - resident)
"""


def test_unloading_frees_memory(python, tmp_path):
    heap_bytes, resident_kib = map(int, python(CYCLES, pmml_models.regression(tmp_path)).split())
    assert heap_bytes < 4 << 20
    assert resident_kib < 48 << 10


EXHAUSTED = """
import sys
from pathlib import Path
import numpy as np
from stfs.errors import LoadFailed, Unavailable
from stfs.platforms.base import LoadOptions
from stfs.platforms.pmml import PmmlPlatform

options = LoadOptions(jvm_heap_bytes=48 << 20)
servable = PmmlPlatform().load(Path(sys.argv[1]), options)
other = PmmlPlatform().load(Path(sys.argv[1]), options)
def columns(rows):
    return {"a": np.random.rand(rows), "b": np.zeros(rows), "c": np.array([b"red"] * rows, object)}
try:
    servable.run("serving_default", columns(3_000_000))
except Unavailable as error:
    print(error)
for model in (servable, other):
    assert model.run("serving_default", columns(10))["y"].shape == (10,)
print("both live on")
"""


def test_a_batch_too_large_for_the_heap_is_unavailable_and_the_models_live_on(python, tmp_path):
    told, alive = python(EXHAUSTED, pmml_models.regression(tmp_path)).splitlines()
    assert told.startswith("Java's heap of 48 MiB has no room to evaluate 3000000 rows (OutOfMemoryError")
    assert told.endswith("send fewer rows, or raise jvm_heap")
    assert alive == "both live on"
