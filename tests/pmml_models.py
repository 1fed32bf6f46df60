"""PMML files written by hand, small enough to be worked out with pencil and paper; the tests hold the arithmetic."""

from __future__ import annotations

from pathlib import Path

NAMESPACE = "http://www.dmg.org/PMML-4_4"


def document(fields: str, model: str, version: str = "4.4") -> str:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<PMML xmlns="{NAMESPACE}" version="{version}"><Header/>\n'
        f"<DataDictionary>{fields}</DataDictionary>\n{model}\n</PMML>"
    )


def write(folder: Path, text: str, name: str = "model.pmml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(text)
    return path


def field(name: str, kind: str = "double", values: str = "", optype: str = "", inside: str = "") -> str:
    """A DataField; ``values`` are its valid values, parted by spaces."""
    optype = optype or ("categorical" if values or kind in ("string", "boolean") else "continuous")
    valid = "".join(f'<Value value="{value}"/>' for value in values.split())
    return f'<DataField name="{name}" optype="{optype}" dataType="{kind}">{valid}{inside}</DataField>'


def mining(*names: str, target: str = "y", **attributes: str) -> str:
    """A MiningSchema of active fields; ``attributes`` are more XML for the field of that name."""
    active = "".join(f'<MiningField name="{name}" {attributes.get(name, "")}/>' for name in names)
    return f'<MiningSchema><MiningField name="{target}" usageType="target"/>{active}</MiningSchema>'


def regression(folder: Path, a: str = "", c: str = "") -> Path:
    """``y = 0.5 + 2 a - 3 b^2 + {red: 1, green: -1, blue: 0}[c]``.

    ``a`` and ``c`` are more attributes of their MiningFields.
    """
    table = (
        '<RegressionTable intercept="0.5"><NumericPredictor name="a" coefficient="2"/>'
        '<NumericPredictor name="b" exponent="2" coefficient="-3"/>'
        '<CategoricalPredictor name="c" value="red" coefficient="1"/>'
        '<CategoricalPredictor name="c" value="green" coefficient="-1"/></RegressionTable>'
    )
    fields = field("y") + field("a") + field("b", "float") + field("c", "string", "red green blue")
    schema = mining("a", "b", "c", a=a, c=c)
    return write(
        folder,
        document(fields, f'<RegressionModel functionName="regression">{schema}{table}</RegressionModel>'),
    )


def scorecard(folder: Path) -> Path:
    """100 to begin with; age below 30: -10, else 15; has a house: 25, none: 0. Reasons by points lost."""
    fields = field("y") + field("age", "integer") + field("house", "boolean")
    parts = (
        '<Characteristic name="age" reasonCode="YOUNG" baselineScore="15">'
        '<Attribute partialScore="-10"><SimplePredicate field="age" operator="lessThan" value="30"/></Attribute>'
        '<Attribute partialScore="15"><SimplePredicate field="age" operator="greaterOrEqual" value="30"/></Attribute>'
        "</Characteristic>"
        '<Characteristic name="house" reasonCode="HOUSELESS" baselineScore="25">'
        '<Attribute partialScore="25"><SimplePredicate field="house" operator="equal" value="true"/></Attribute>'
        '<Attribute partialScore="0"><True/></Attribute></Characteristic>'
    )
    output = (
        '<Output><OutputField name="score" feature="predictedValue" dataType="double" optype="continuous"/>'
        '<OutputField name="reason" feature="reasonCode" rank="1" dataType="string" optype="categorical"/>'
        '<OutputField name="hidden" feature="reasonCode" rank="2" dataType="string" optype="categorical" '
        'isFinalResult="false"/></Output>'
    )
    model = (
        '<Scorecard functionName="regression" initialScore="100" useReasonCodes="true" '
        f'reasonCodeAlgorithm="pointsBelow">{mining("age", "house")}{output}'
        f"<Characteristics>{parts}</Characteristics></Scorecard>"
    )
    return write(folder, document(fields, model))


WEIGHTS = ((0.5, -1.0, 0.25), (1.5, 0.75, -0.5))
BIASES = (0.1, -0.2)
LAST = ((1.0, -2.0), (-1.0, 2.0))


def neural_network(folder: Path) -> Path:
    """Three inputs, two tanh neurons, two outputs under softmax; classes "0" and "1" of dataType integer."""
    inputs = "".join(
        f'<NeuralInput id="i{i}"><DerivedField optype="continuous" dataType="double">'
        f'<FieldRef field="x{i}"/></DerivedField></NeuralInput>'
        for i in range(3)
    )
    hidden = "".join(
        f'<Neuron id="h{j}" bias="{BIASES[j]}">'
        + "".join(f'<Con from="i{i}" weight="{WEIGHTS[j][i]}"/>' for i in range(3))
        + "</Neuron>"
        for j in range(2)
    )
    last = "".join(
        f'<Neuron id="o{k}" bias="0">'
        + "".join(f'<Con from="h{j}" weight="{LAST[k][j]}"/>' for j in range(2))
        + "</Neuron>"
        for k in range(2)
    )
    outputs = "".join(
        f'<NeuralOutput outputNeuron="o{k}"><DerivedField optype="categorical" dataType="integer">'
        f'<NormDiscrete field="y" value="{k}"/></DerivedField></NeuralOutput>'
        for k in range(2)
    )
    shares = "".join(
        f'<OutputField name="probability({k})" feature="probability" value="{k}" dataType="double" '
        'optype="continuous"/>'
        for k in range(2)
    )
    fields = field("y", "integer", "0 1") + "".join(field(f"x{i}") for i in range(3))
    model = (
        '<NeuralNetwork functionName="classification" activationFunction="tanh">'
        f"{mining('x0', 'x1', 'x2')}<Output>{shares}</Output>"
        f"<NeuralInputs>{inputs}</NeuralInputs><NeuralLayer>{hidden}</NeuralLayer>"
        f'<NeuralLayer activationFunction="identity" normalizationMethod="softmax">{last}</NeuralLayer>'
        f"<NeuralOutputs>{outputs}</NeuralOutputs></NeuralNetwork>"
    )
    return write(folder, document(fields, model))


def integer_categories(folder: Path) -> Path:
    """A tree on a categorical integer: 1 and 7 are "odd", 4 is "even"; its target has no name."""
    nodes = (
        '<Node score="even"><True/><Node score="odd"><SimpleSetPredicate field="level" booleanOperator="isIn">'
        '<Array type="int" n="2">1 7</Array></SimpleSetPredicate></Node></Node>'
    )
    schema = '<MiningSchema><MiningField name="level"/></MiningSchema>'
    model = (
        '<TreeModel functionName="classification" noTrueChildStrategy="returnLastPrediction">'
        f"{schema}{nodes}</TreeModel>"
    )
    return write(folder, document(field("level", "integer", "1 4 7"), model))


def association(folder: Path) -> Path:
    """Association rules, whose input is a basket: not rows and columns."""
    fields = field("basket", "string") + field("item", "string")
    model = (
        '<AssociationModel functionName="associationRules" numberOfTransactions="2" minimumSupport="0.5" '
        'minimumConfidence="0.5" numberOfItems="2" numberOfItemsets="2" numberOfRules="1">'
        '<MiningSchema><MiningField name="basket" usageType="group"/><MiningField name="item" usageType="active"/>'
        '</MiningSchema><Item id="1" value="tea"/><Item id="2" value="milk"/>'
        '<Itemset id="1"><ItemRef itemRef="1"/></Itemset><Itemset id="2"><ItemRef itemRef="2"/></Itemset>'
        '<AssociationRule antecedent="1" consequent="2" support="1" confidence="1"/></AssociationModel>'
    )
    return write(folder, document(fields, model))
