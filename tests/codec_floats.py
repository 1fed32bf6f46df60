"""Floats and texts of floats for the codec's tests, and what Python and numpy say of them.

Owns how they are drawn and the references. From the command line it draws on and compares:
``python tests/codec_floats.py --runs 20 --seed 1``, a million of each kind a run.
"""

import argparse
import sys
from decimal import Decimal
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from twins import COMPILED, READABLE

BITS = {2: np.uint16, 4: np.uint32, 8: np.uint64}


def edges(dtype):
    """Powers of two and of ten, and their neighbours: where distances and numbers of digits change."""
    info = np.finfo(dtype)
    twos = np.ldexp(np.float64(1), np.arange(info.minexp - info.nmant, info.maxexp))
    tens = np.array([float(f"{d}e{k}") for k in range(-324, 308) for d in (1, 2, 5, 9.5, 9.9999999)])
    with np.errstate(over="ignore"):
        values = np.concatenate([twos, tens]).astype(dtype)
    values = np.concatenate([values, np.nextafter(values, dtype.type(0)), np.nextafter(values, dtype.type(np.inf))])
    return values[np.isfinite(values)]


def floats(dtype, count, rng):
    """``count`` finite floats, a third of any bits, the others such as models and people make."""
    dtype = np.dtype(dtype)
    bits = BITS[dtype.itemsize]
    some = count // 6
    with np.errstate(over="ignore"):
        drawn = [
            edges(dtype),
            np.ldexp(rng.integers(-(2**20), 2**20, some), -rng.integers(0, 60, some)),  # have ties among their digits
            np.round(rng.standard_normal(some) * 10.0 ** rng.integers(-6, 17, some), 3),
            rng.standard_normal(some),
            rng.integers(-(2**62), 2**62, some) >> rng.integers(0, 62, some),
            rng.integers(0, np.iinfo(bits).max, 2 * count, dtype=bits, endpoint=True).view(dtype),
        ]
        values = np.concatenate([part.astype(dtype) for part in drawn])
    return values[np.isfinite(values)][:count]


def texts(count, rng):
    """``count`` texts of numbers in a double's range: a third of random digits, then as repr writes, then near ties."""
    made = []
    third = count // 3
    lengths, points = rng.integers(1, 26, third), rng.integers(0, 26, third)
    exponents, pool = rng.integers(-345, 280, third), rng.integers(0, 10, 25 * third).astype(np.uint8) + ord("0")
    pool = pool.tobytes().decode()
    for i in range(third):
        digits = pool[25 * i : 25 * i + int(lengths[i])]
        point = min(int(points[i]), len(digits))
        whole = digits[:point].lstrip("0") or "0"
        text = f"{whole}.{digits[point:]}" if point < len(digits) else whole
        made.append(text if i % 2 else f"{text}e{exponents[i]}")
    made += map(repr, floats("float64", third, rng).tolist())
    made += map(repr, floats("float32", count - len(made) - 2000, rng).astype("float64").tolist())
    for value in np.abs(floats("float64", 2000, rng)):
        # Where two doubles are as near, written out in full, and by one in the last place to a side.
        tie = (Decimal(float(value)) + Decimal(float(np.nextafter(value, 0)))) / 2
        digits = f"{tie:.{min(700, max(1, -tie.as_tuple().exponent))}f}"
        made.append(digits[:-1] + str(int(rng.integers(0, 10))))
    return made


def listed(values):
    return "[" + ",".join(values) + "]"


def shortest_digits(text):
    """The digits of a number's text, without zeros that say only where the point is."""
    return text.lstrip("-").partition("e")[0].replace(".", "").strip("0")


def tfs_text(value, dtype, digits):
    """As TensorFlow Serving writes a float, by Python's own formatting."""
    text = f"{value:.6g}"
    if float(dtype.type(float(text))) != value:
        text = f"{value:.{digits}g}"
    return text if "." in text or "e" in text else text + ".0"


def check_texts_of_floats(count, rng):
    """Shortest digits, byte for byte: Python's for doubles, numpy's for floats; and both read back to the bit."""
    doubles = floats("float64", count, rng)
    body = COMPILED.encode(doubles)
    assert body.decode() == listed(map(repr, doubles.tolist()))
    assert COMPILED.Reader(body).tensor(doubles.dtype).tobytes() == doubles.tobytes()
    singles = floats("float32", count, rng)
    body = COMPILED.encode(singles)
    assert COMPILED.Reader(body).tensor(singles.dtype).tobytes() == singles.tobytes()
    got = map(shortest_digits, body.decode()[1:-1].split(","))
    assert list(got) == list(map(shortest_digits, singles.astype(str).tolist()))


def check_tfs_texts_of_floats(count, rng):
    """Six digits or all of them, byte for byte as printf writes them."""
    for name, digits in (("float32", 9), ("float64", 17)):
        values = floats(name, count, rng)
        with np.errstate(over="ignore"):
            want = [tfs_text(value, values.dtype, digits) for value in values.tolist()]
        assert COMPILED.encode(values, style="tfs").decode() == listed(want)


def check_floats_of_texts(count, rng):
    """Doubles as Python's ``float`` reads them, and floats as those rounded once."""
    drawn = texts(count, rng)
    body = listed(drawn).encode()
    doubles = np.array(list(map(float, drawn)))
    assert COMPILED.Reader(body).tensor(np.dtype("float64")).tobytes() == doubles.tobytes()
    with np.errstate(over="ignore"):
        singles = doubles.astype(np.float32)
    fit = np.isfinite(singles)
    body = listed(text for text, fits in zip(drawn, fit, strict=True) if fits).encode()
    assert COMPILED.Reader(body).tensor(np.dtype("float32")).tobytes() == singles[fit].tobytes()
    # That is the float nearest to the text itself, but where the double is a tie between floats and the text is not:
    # there it is what a client gets who has the double and makes a float of it. No text of random digits is such a one.
    toward = np.where(singles < doubles, np.float32(np.inf), np.float32(-np.inf))
    with np.errstate(invalid="ignore", over="ignore"):
        ties = fit & (singles != doubles) & (doubles - singles == np.nextafter(singles, toward) - doubles)
    for i in np.flatnonzero(ties[: count // 3]):
        assert Decimal(drawn[i]) == Decimal(float(doubles[i]))


def check_the_twins(count, rng):
    """The readable twin's own texts."""
    for name in ("float16", "float32", "float64"):
        values = floats(name, count, rng)
        for style in ("shortest", "tfs"):
            assert COMPILED.encode(values, style=style) == READABLE.encode(values, style=style)


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--runs", type=int, default=1)
    options.add_argument("--seed", type=int, default=1)
    asked = options.parse_args()
    for seed in range(asked.seed, asked.seed + asked.runs):
        for check in (check_texts_of_floats, check_tfs_texts_of_floats, check_floats_of_texts, check_the_twins):
            check(1_000_000, np.random.default_rng(seed))
            print(f"seed {seed}: {check.__name__}", flush=True)


if __name__ == "__main__":
    main()
