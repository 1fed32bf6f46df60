"""The compiled twin's own printing and reading of floats, against Python's and numpy's on a million of them."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from codec_floats import check_floats_of_texts, check_texts_of_floats, check_tfs_texts_of_floats
from twins import COMPILED, READABLE, needs_compiled

NATIVE = Path(__file__).parent.parent / "stfs" / "native"


def test_the_table_of_powers_is_what_its_script_writes():
    written = runpy.run_path(str(NATIVE / "powers_of_ten.py"))["header"]()
    assert (NATIVE / "powers_of_ten.hpp").read_text() == written


@needs_compiled
@pytest.mark.slow
def test_a_million_floats_have_their_shortest_text_and_read_back():
    check_texts_of_floats(1_000_000, np.random.default_rng(11))


@needs_compiled
@pytest.mark.slow
def test_many_floats_have_the_text_of_tensorflow_serving():
    check_tfs_texts_of_floats(250_000, np.random.default_rng(12))


@needs_compiled
@pytest.mark.slow
def test_a_million_texts_are_read_to_the_bit():
    check_floats_of_texts(1_000_000, np.random.default_rng(13))


@needs_compiled
@pytest.mark.parametrize("style", ["shortest", "tfs"])
@pytest.mark.parametrize(
    ("name", "values"),
    [
        # Ties, ends of intervals that belong to them or do not, powers of two, and the ends of the range.
        ("float32", [2.0**-44, 2.0**-24, 1.00390625, 8.5899346e9, 3.355445e7, 9.8765432e-39, 1e-45, 3.4028235e38]),
        ("float64", [2.0**-1074, 2.0**-1022, 9007199254740993.0, 2.0**122, 1e23, 9.5367431640625e-07, 1.7e308]),
        # A carry into another digit, in six of them and in all.
        ("float32", [0.99999994, 9.9999994e-05, 9999999.0, 0.000099999994, 999999.94, 9.9999998e10]),
        ("float64", [0.9999999999999999, 9.999999999999999e22, 99999.99999999999, 1e16, 9999999999999998.0, 123456.5]),
        # Where the point stands: before, among and behind the digits, in one word and in more.
        ("float64", [123456789012.5, 1234567.75, 12345678.5, 123456789.25, 1234567890123456.8, 0.00012345, 1e-5]),
    ],
)
def test_numbers_that_are_hard_to_print(style, name, values):
    array = np.array([*values, *(-v for v in values)], name)
    assert COMPILED.encode(array, style=style) == READABLE.encode(array, style=style)


@needs_compiled
@pytest.mark.parametrize("count", [1, 15, 16, 17, 31, 33, 100])
@pytest.mark.parametrize("name", ["float16", "float32", "float64", "int8", "int64", "bool"])
def test_lists_of_any_length_are_joined_where_blocks_meet(count, name):
    array = (np.arange(3 * count) % 7 - 3).astype(name).reshape(3, count)
    assert COMPILED.encode(array) == READABLE.encode(array)


@needs_compiled
@pytest.mark.parametrize("name", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_integers_of_every_length(name):
    limits = np.iinfo(name)
    tens = [s * 10**k + d for k in range(20) for d in (-1, 0, 1) for s in (-1, 1)]
    values = [v for v in [*tens, 255 * 10**8, 256 * 10**8, limits.min, limits.max] if limits.min <= v <= limits.max]
    assert COMPILED.encode(np.array(values, name)).decode() == "[" + ",".join(map(str, values)) + "]"
