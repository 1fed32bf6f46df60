"""What a fitted estimator takes: a matrix of numbers, a table of columns, or documents; and how arrays become that.

Owns what an estimator's parts tell of the columns that they were fitted on. Must not live here: files, outputs, and
which methods are called (``estimator``).

Of scikit-learn's private attributes ``_transformer_to_input_indices`` of a ColumnTransformer is read (since 0.24), and
``_preprocessor`` of the histogram gradient boosting; without them the columns count as numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stfs.errors import InvalidInput
from stfs.platforms.base import object_array
from stfs.platforms.estimator import parts
from stfs.signature import STRING, Array, Tensors, TensorSpec

FLOAT = np.dtype("float64")
INPUT = "data"

REFUSED: Any = object()
"""Stands for no missing value: the column has none."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column as the estimator's parts tell of it.

    ``dtype`` is ``None`` where nobody has said: numbers then. ``values`` are those that alone are taken, ``sample`` is
    one that is. ``missing`` is what a missing value was when it was fitted (``None``, NaN), REFUSED if none is provided
    for. ``lenient`` says that unknown categories are taken, so that a missing value may be too.
    """

    dtype: np.dtype[Any] | None = None
    values: tuple[Any, ...] = ()
    sample: Any = None
    missing: Any = REFUSED
    lenient: bool = False

    def then(self, later: Column) -> Column:
        """The column of a step that hands its values on to the ``later`` step of a pipeline."""
        if self.dtype is None or (self.dtype == later.dtype and not self.values):
            return replace(later, missing=later.missing if self.missing is REFUSED else self.missing)
        return self

    def beside(self, other: Column) -> Column:
        """The column where two parts get it."""
        if self.dtype is None or other.dtype is None:
            known = other if self.dtype is None else self
            return replace(known, missing=REFUSED) if known.dtype == STRING else known
        values = tuple(v for v in self.values if v in other.values) if self.values and other.values else ()
        values = values or self.values or other.values
        missing = self.missing if other.missing is not REFUSED else REFUSED
        dtype = self.dtype if self.dtype == other.dtype else STRING if STRING in (self.dtype, other.dtype) else FLOAT
        return Column(dtype, values, values[0] if values else self.sample, missing, self.lenient and other.lenient)


Columns = dict[int, Column]
"""By position; without those that the estimator drops."""


def needs_frame(estimator: Any) -> bool:
    """Whether a part of it picks columns by the names of a data frame, or may do so."""
    from sklearn.compose import ColumnTransformer
    from sklearn.preprocessing import FunctionTransformer

    by_name = (ColumnTransformer, FunctionTransformer)
    return any(isinstance(part, by_name) and "feature_names_in_" in vars(part) for part in parts(estimator))


def takes_documents(estimator: Any) -> bool:
    """Whether it was fitted on a list of texts, which its first part cuts into words."""
    from sklearn.pipeline import FeatureUnion, Pipeline

    if _is_vectorizer(estimator):
        return True
    if isinstance(estimator, Pipeline):
        return any(takes_documents(step) for step in _real_steps(estimator)[:1])
    if isinstance(estimator, FeatureUnion):
        return any(takes_documents(part) for _, part in estimator.transformer_list)
    return any(takes_documents(inner) for inner in _inner(estimator))


def reads_files(estimator: Any) -> bool:
    """Whether a part takes its documents for names of files, which would let clients have files of the server read."""
    return any(_is_vectorizer(part) and part.input != "content" for part in parts(estimator))


def columns_of(estimator: Any, count: int) -> Columns:
    """What is known of each of the ``count`` columns that the estimator takes."""
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import FeatureUnion, Pipeline

    if isinstance(estimator, Pipeline):
        return _of_steps(_real_steps(estimator), count)
    if isinstance(estimator, ColumnTransformer):
        positions = getattr(estimator, "_transformer_to_input_indices", None)
        if positions is not None:
            found: Columns = {}
            for name, part, _ in estimator.transformers_:
                if isinstance(part, str) and part == "drop":
                    continue
                at = list(positions[name])
                told = {} if isinstance(part, str) else columns_of(part, len(at))
                _add(found, {column: told.get(i, Column()) for i, column in enumerate(at)})
            return found
    own = {i: _own(estimator, i) for i in range(count)}
    if any(column != Column() for column in own.values()):
        return own
    found = {}
    for part in (
        [p for _, p in estimator.transformer_list] if isinstance(estimator, FeatureUnion) else _inner(estimator)
    ):
        if getattr(part, "n_features_in_", None) == count:
            _add(found, columns_of(part, count))
    return found or own


def _of_steps(steps: list[Any], count: int) -> Columns:
    """A pipeline's columns: those of its first step, and of the next one too if that only fills in what is missing."""
    if not steps:
        return {i: Column() for i in range(count)}
    found = columns_of(steps[0], count)
    if hasattr(steps[0], "missing_values") and getattr(steps[1] if steps[1:] else None, "n_features_in_", 0) == count:
        later = _of_steps(steps[1:], count)
        found = {i: column.then(later.get(i, Column())) for i, column in found.items()}
    return found


def _add(found: Columns, told: Columns) -> None:
    for i, column in told.items():
        found[i] = found[i].beside(column) if i in found else column


def _own(estimator: Any, i: int) -> Column:
    """What the estimator's own fitted attributes tell of column ``i``."""
    if _is_vectorizer(estimator):
        return Column(STRING, sample="")
    categories = getattr(estimator, "categories_", None)
    if isinstance(categories, list | tuple) and i < len(categories):
        return _category(np.asarray(categories[i]), str(getattr(estimator, "handle_unknown", "")) == "error")
    if hasattr(estimator, "missing_values"):
        missing = estimator.missing_values
        is_missing = missing is None or (isinstance(missing, float) and np.isnan(missing))
        filled = np.asarray(getattr(estimator, "statistics_", 0.0))
        is_text = filled.dtype.kind in "OUS" and isinstance(filled[i], str)
        dtype = STRING if is_text else None
        return Column(dtype, sample=filled[i] if is_text else None, missing=missing if is_missing else REFUSED)
    return Column()


def _category(categories: Array, strict: bool) -> Column:
    known = categories.tolist()
    gone = [value for value in known if value is None or value != value]
    known = [value for value in known if value is not None and value == value]
    missing = gone[0] if gone else REFUSED
    if any(isinstance(value, str) for value in known):
        dtype = STRING
    else:
        dtype = np.asarray(known).dtype if known else FLOAT
        dtype = dtype if dtype.kind in "biuf" and missing is REFUSED else FLOAT
    return Column(dtype, tuple(known) if strict else (), known[0] if known else None, missing, not strict)


def _inner(estimator: Any) -> Iterator[Any]:
    """The fitted estimators that one hands its own rows to: those in its fitted attributes."""
    for name, value in vars(estimator).items() if hasattr(estimator, "get_params") else ():
        if name.endswith("_") or name == "_preprocessor":
            for thing in value if isinstance(value, list) else [value]:
                inner = thing if hasattr(thing, "get_params") else getattr(thing, "estimator", None)
                if hasattr(inner, "get_params") and not isinstance(inner, type):
                    yield inner


def _real_steps(pipeline: Any) -> list[Any]:
    return [step for _, step in pipeline.steps if step is not None and not isinstance(step, str)]


def _is_vectorizer(thing: Any) -> bool:
    from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer

    return isinstance(thing, CountVectorizer | HashingVectorizer)


@dataclass(frozen=True, slots=True)
class Inputs:
    """The inputs of a signature and ``build``, which makes of them, bound, what the estimator's methods take."""

    specs: tuple[TensorSpec, ...]
    build: Callable[[Mapping[str, Array]], Any]


@dataclass(frozen=True, slots=True)
class Choice:
    """What an estimator takes, all but which inputs may have missing values.

    ``make`` gives the inputs for the names of those that may. ``tries`` are sets of names of which that can be shown,
    the likeliest first. ``samples`` is one row that the estimator should take. ``frames`` says that it is given frames.
    """

    make: Callable[[frozenset[str]], Inputs]
    tries: tuple[frozenset[str], ...]
    samples: Tensors
    frames: bool

    def rows(self, count: int, missing: frozenset[str] = frozenset()) -> Tensors:
        """``count`` rows like the sample, those inputs all missing."""
        rows = {name: np.repeat(sample, count, axis=0) for name, sample in self.samples.items()}
        for name in missing:
            rows[name][...] = b"" if rows[name].dtype == STRING else np.nan
        return rows


def choose(estimator: Any) -> Choice:
    """What a fitted estimator takes. Reads it, and changes nothing.

    Raises :class:`ValueError`, saying why, for one that cannot be served.
    """
    if reads_files(estimator):
        raise ValueError("takes names of files for its documents, which a server must not read for its clients")
    names = tuple(str(name) for name in getattr(estimator, "feature_names_in_", ()))
    count = getattr(estimator, "n_features_in_", None)
    if count is None:
        if not takes_documents(estimator):
            raise ValueError("does not say how many features it takes: is it fitted?")
        return Choice(lambda _: documents(), (), {INPUT: object_array([b""], (1,))}, False)
    columns = columns_of(estimator, int(count))
    by_name = needs_frame(estimator) and len(set(names)) == count
    numbers = all(column.dtype != STRING for column in columns.values())
    told = names and any(column.values for column in columns.values())
    if numbers and not told and (len(columns) == count or not names):
        row = [columns.get(i, Column()).sample or 0 for i in range(count)]
        return Choice(
            lambda missing: matrix(int(count), names, by_name, bool(missing)),
            (frozenset([INPUT]),),
            {INPUT: np.array([row], FLOAT)},
            by_name,
        )
    by_name = len(set(names)) == count
    used = {
        names[i] if by_name else f"x{i}": columns.get(i, Column()) for i in range(count) if not by_name or i in columns
    }
    known = {name for name, c in used.items() if c.missing is not REFUSED and c.dtype in (None, STRING, FLOAT)}
    lenient = {name for name, c in used.items() if c.lenient and c.dtype == STRING}
    floats = {name for name, c in used.items() if c.dtype in (None, FLOAT)}
    samples = {name: _sample(column) for name, column in used.items()}
    tries = tuple(frozenset(group) for group in (known, lenient, floats) if group)
    return Choice(lambda missing: table(used, by_name, missing), tries, samples, by_name)


def matrix(count: int, names: tuple[str, ...], frame: bool, nullable: bool) -> Inputs:
    """Numbers: ``data``, float64 ``[rows, count]``, handed on as it is or as a data frame."""
    spec = TensorSpec(INPUT, FLOAT, (None, count), doc=", ".join(names), nullable=nullable, columns=names)

    def as_frame(inputs: Mapping[str, Array]) -> Any:
        import pandas

        return pandas.DataFrame(inputs[INPUT], columns=list(names))

    return Inputs((spec,), as_frame if frame else lambda inputs: inputs[INPUT])


def documents() -> Inputs:
    """Texts: ``data``, strings ``[rows]``, handed on as a list of ``str``."""
    spec = TensorSpec(INPUT, STRING, (None,), doc="documents")
    return Inputs((spec,), lambda inputs: _text(spec, inputs[INPUT], REFUSED))


def table(columns: Mapping[str, Column], frame: bool, nullable: frozenset[str]) -> Inputs:
    """Columns of several kinds, one input each, handed on as a data frame or an array of objects.

    ``nullable`` are those of floats and strings that may have missing values.
    """
    specs = tuple(
        TensorSpec(
            name, column.dtype or FLOAT, (None,), nullable=name in nullable, values=tuple(str(v) for v in column.values)
        )
        for name, column in columns.items()
    )

    def plain(inputs: Mapping[str, Array]) -> dict[str, Any]:
        return {
            spec.name: _text(spec, inputs[spec.name], columns[spec.name].missing)
            if spec.dtype == STRING
            else inputs[spec.name]
            for spec in specs
        }

    def as_frame(inputs: Mapping[str, Array]) -> Any:
        import pandas

        values = plain(inputs)
        index = pandas.RangeIndex(len(next(iter(values.values()))))  # given, for else it is compared column by column
        frame = {
            # Said to be objects: pandas would make strings of its own of them, for which None and NaN are the same.
            name: pandas.Series(column, index, dtype=object, copy=False) if column.dtype == STRING else column
            for name, column in values.items()
        }
        return pandas.DataFrame(frame, index, copy=False)

    def as_objects(inputs: Mapping[str, Array]) -> Any:
        return np.stack([values.astype(object) for values in plain(inputs).values()], axis=1)

    return Inputs(specs, as_frame if frame else as_objects)


def _sample(column: Column) -> Array:
    if column.dtype == STRING:
        return object_array([str(column.sample or "").encode()], (1,))
    return np.array([0 if column.sample is None else column.sample], column.dtype or FLOAT)


def _text(spec: TensorSpec, values: Array, missing: Any) -> Array:
    """``bytes`` as ``str``, missing ones as the estimator knows them."""
    gone = float("nan") if missing is REFUSED else missing
    try:
        decoded = [value.decode() if value or not spec.nullable else gone for value in values.tolist()]
    except UnicodeDecodeError as error:
        raise InvalidInput(spec.name, f"not UTF-8: {error}") from error
    return object_array(decoded, values.shape)
