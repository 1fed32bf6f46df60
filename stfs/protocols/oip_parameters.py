"""``parameters`` objects of the Open Inference Protocol: the few that mean something here, read without the rest."""

from __future__ import annotations

from collections.abc import Container, Mapping

from stfs.codec import Reader
from stfs.errors import InvalidRequest


def read_parameters(reader: Reader, known: Container[str]) -> dict[str, object]:
    """The ``known`` members of the object at the cursor; ``null`` is as good as nothing.

    Others are passed over: the protocol leaves parameters to the servers that know them. Raises
    :class:`InvalidRequest` for a known one that is neither string, number nor boolean.
    """
    kind = reader.kind()
    if kind == "null":
        reader.skip()
        return {}
    if kind != "object":
        raise InvalidRequest(f'"parameters" must be an object, not {kind}')
    found: dict[str, object] = {}
    reader.enter_object()
    while (key := reader.next_key()) is not None:
        kind = reader.kind()
        if key not in known or kind == "null":
            reader.skip()
        elif kind in ("string", "number", "bool"):
            found[key] = reader.value()
        else:
            raise InvalidRequest(f'the parameter "{key}" must be a string, a number or a boolean, not {kind}')
    return found


def read_integer(parameters: Mapping[str, object], key: str, bits: int = 63) -> int | None:
    """A whole number of so many bits, not negative; ``None`` if it is not there. Raises :class:`InvalidRequest`."""
    value = parameters.get(key)
    if value is None:
        return None
    if type(value) is not int or not 0 <= value < 1 << bits:
        raise InvalidRequest(f'the parameter "{key}" must be a whole number of 0 or more, not {str(value)[:40]!r}')
    return value


def read_flag(parameters: Mapping[str, object], key: str) -> bool | None:
    """A boolean; ``None`` if it is not there. Raises :class:`InvalidRequest`."""
    value = parameters.get(key)
    if value is None or isinstance(value, bool):
        return value
    raise InvalidRequest(f'the parameter "{key}" must be true or false, not {str(value)[:40]!r}')
