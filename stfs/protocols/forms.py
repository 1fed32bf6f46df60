"""The forms in which a request may send a table: by column, by row, by index. Fills arrays straight from the text.

What a table calls its columns is :attr:`Signature.columns`: the inputs, if each holds one value a row, or the features
of the only input. For both, :func:`read_data` takes

- ``{"a": [1, 2], "b": ["x", "y"]}``: a list a column,
- ``{"a": 1, "b": "x"}``: one row,
- ``[{"a": 1, "b": "x"}, ...]``: an object a row,
- ``[[1, "x"], ...]``: a list a row, in the signature's order,
- ``{"a": {"0": 1, "1": 2}, ...}`` and ``{"0": {"a": 1, "b": "x"}, ...}``: as pandas writes a frame, by column or index,

each of them also as the value of a key ``data``. A column that may have missing values may be left out. Keys that the
signature does not know (the response, in a record from the training data) are passed over, unless a column that it does
know is missing: then one is likely a misspelling of the other.

Must not live here: which keys of a body hold the data, how columns are filled (``columns``), sparse rows (``libsvm``).
"""

from __future__ import annotations

from collections.abc import Container, Mapping

from stfs import codec, errors
from stfs.protocols import libsvm
from stfs.protocols.columns import Index, RowObjects, filled_up, joined, missing, row_order, told
from stfs.protocols.request import first_key, is_base64_value, new_column, only_input, read_tensor
from stfs.signature import STRING, Array, Signature, Tensors, TensorSpec


def read_data(reader: codec.Reader, body: bytes | memoryview, signature: Signature, *, inner: bool = False) -> Tensors:
    """The inputs in the value at the cursor, shapes not yet checked: a table in any form, or the only input's tensor.

    ``inner`` says that it is itself the value of a key ``data``. Raises :class:`stfs.errors.InvalidRequest`.
    """
    kind = reader.kind()
    # Under a second "data" it is the value of the input, even of one that is called b64.
    is_string = _is_base64 if inner else is_base64_value
    if kind == "object" and not is_string(body, reader.position, signature):
        return read_named(reader, body, signature, inner=inner)
    if kind == "array":
        start = reader.position
        reader.enter_array()
        if reader.next_item():
            kind = reader.kind()
            # In a list {"b64": ...} is a string even for an input that is called b64.
            if kind == "object" and not _is_base64(body, reader.position, signature):
                return _read_objects(reader, body, signature)
            if kind == "array" and signature.columns and signature.inputs[0].is_column:
                return _read_lists(reader, signature)
        reader.seek(start)
    spec = only_input(signature, '"data"')
    array = read_tensor(reader, spec, integral_floats=True)
    return {spec.name: array.reshape(1) if spec.is_column and array.ndim == 0 else array}


def _is_base64(body: bytes | memoryview, position: int, signature: Signature) -> bool:
    """Whether the object at ``position`` is a string for the only input, where no input is named by its keys."""
    is_text = len(signature.inputs) == 1 and signature.inputs[0].dtype == STRING
    return is_text and first_key(body, position) == "b64"


def _read_objects(reader: codec.Reader, body: bytes | memoryview, signature: Signature) -> Tensors:
    """The cursor is at the first object of a list."""
    rows = RowObjects(reader, body, signature, integral_floats=True, strict=False)
    while True:
        if (kind := reader.kind()) != "object":
            raise errors.InvalidRequest(f'"data" [{rows.rows}] is {kind} where the ones before are objects')
        rows.add(reader)
        if not reader.next_item():
            return rows.tensors()


def _read_lists(reader: codec.Reader, signature: Signature) -> Tensors:
    """The cursor is at the first list of a list; each has one value for each input."""
    columns = [(spec.name, new_column(spec, integral_floats=True)) for spec in signature.inputs]
    row = 0
    while True:
        if (kind := reader.kind()) != "array":
            raise errors.InvalidRequest(f'"data" [{row}] is {kind} where the ones before are lists')
        reader.enter_array()
        for found, (name, column) in enumerate(columns):
            if not reader.next_item():
                raise _wrong_width(row, found, signature)
            try:
                reader.append(column)
            except errors.BadElement as fault:
                raise fault.named(name) from None
        if reader.next_item():
            raise _wrong_width(row, len(columns) + 1, signature)
        row += 1
        if not reader.next_item():
            return {name: column.array() for name, column in columns}


def _wrong_width(row: int, found: int, signature: Signature) -> errors.InvalidRequest:
    wanted = len(signature.inputs)
    have = f"only {found}" if found < wanted else f"more than {wanted}"
    return errors.InvalidRequest(
        f'"data" [{row}] has {have} of the {wanted} values that a row has: {told(signature.columns)}'
    )


def read_named(
    reader: codec.Reader,
    body: bytes | memoryview,
    signature: Signature,
    *,
    inner: bool = False,
    ignored: Container[str] = (),
) -> Tensors:
    """The inputs in the object at the cursor, which names them, or columns, or rows, or is sparse, or holds ``data``.

    ``ignored`` are keys that are somebody else's. ``inner`` and errors are those of :func:`read_data`.
    """
    columns = signature.columns
    features = bool(columns) and not signature.inputs[0].is_column
    at = reader.position
    inputs: Tensors = {}
    table: Tensors = {}
    index = Index()
    stranger: str | None = None
    reader.enter_object()
    while (key := reader.next_key()) is not None:
        spec = columns.get(key)
        if spec is not None and not (features and key == spec.name):
            table[key] = _read_column(reader, body, key, spec, index)
        elif (spec := _input(signature, key)) is not None:
            if not inner and len(signature.inputs) == 1 and (features or reader.kind() == "object"):
                inputs |= read_data(reader, body, signature, inner=True)
            else:
                inputs[key] = read_tensor(reader, spec, integral_floats=True)
        elif key in ignored:
            reader.skip()
        elif key == "data" and not inner and (columns or len(signature.inputs) == 1):
            inputs |= read_data(reader, body, signature, inner=True)
        elif key in libsvm.KEYS and not table and libsvm.fits(signature):
            reader.seek(at)
            return {signature.inputs[0].name: libsvm.read(reader, signature.inputs[0])}
        elif not columns:
            signature.input(key)  # raises: it is unknown
        elif not table and stranger is None and _names_one(body, reader.position, columns):
            reader.seek(at)
            return _read_rows_by_index(reader, body, signature)
        else:
            stranger = key if stranger is None else stranger
            reader.skip()
    if stranger is not None and not inputs:
        absent = next((name for name in columns if name not in table), None)
        if absent is not None:
            raise missing(absent, columns, stranger)
    if stranger is not None and features and inputs:
        signature.input(stranger)  # raises: it is unknown
    if not table or not features:
        return inputs | table
    if inputs:
        raise errors.InvalidInput(signature.inputs[0].name, f'sent whole, and "{next(iter(table))}" beside it')
    for name in columns:
        if name not in table and not columns[name].nullable:
            raise missing(name, columns, None)
    return inputs | joined(signature.inputs[0], filled_up(table, columns))


def _input(signature: Signature, key: str) -> TensorSpec | None:
    for spec in signature.inputs:  # a generator would cost more than all the rest, for most models
        if spec.name == key:
            return spec
    return None


def _read_column(reader: codec.Reader, body: bytes | memoryview, name: str, spec: TensorSpec, index: Index) -> Array:
    """A list of values, a single one, or an object from the index of a row to its value."""
    if reader.kind() == "object" and not (spec.dtype == STRING and first_key(body, reader.position) == "b64"):
        return index.read(reader, name, spec)
    array = read_tensor(reader, spec, integral_floats=True, name=name)
    return array.reshape(1) if array.ndim == 0 else array


def _names_one(body: bytes | memoryview, position: int, columns: Mapping[str, TensorSpec]) -> bool:
    """Whether the value at ``position`` is an object with one of the columns among its keys. Moves nobody's cursor."""
    probe = codec.Reader(body)
    probe.seek(position)
    if probe.kind() != "object":
        return False
    probe.enter_object()
    while (key := probe.next_key()) is not None:
        if key in columns:
            return True
        probe.skip()
    return False


def _read_rows_by_index(reader: codec.Reader, body: bytes | memoryview, signature: Signature) -> Tensors:
    """The cursor is at an object from the index of a row to an object of its values."""
    rows: RowObjects | None = None
    at: dict[str, int] = {}
    reader.enter_object()
    while (key := reader.next_key()) is not None:
        if (kind := reader.kind()) != "object":
            raise errors.InvalidRequest(f'"{key[:100]}" is {kind} where the ones before are rows')
        if key in at:
            raise errors.InvalidRequest(f'row "{key[:100]}" stands twice')
        at[key] = len(at)
        if rows is None:
            rows = RowObjects(reader, body, signature, integral_floats=True, strict=False)
        rows.add(reader)
    assert rows is not None, "somebody has looked at the first of them"
    return rows.tensors([at[key] for key in row_order(at)])
