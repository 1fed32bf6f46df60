"""Requests over HTTP to the models of many examples at once, every answer checked row by row.

Used by the test that serves every platform in one server, and by ``benchmarks/platforms.py``.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from conformance.conftest import Made
from running import Running


@dataclass
class Tally:
    """What came of the requests: how many each model answered rightly, and one line for each that went wrong."""

    right: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def write_config(examples: Iterable[Made], file: Path) -> Path:
    """A config file that serves each example under its identifier; the platform is told by the files."""
    entries = [{"name": made.identifier, "base_path": str(made.path)} for made in examples]
    file.write_text(json.dumps({"model_config_list": entries}))
    return file


def drive(server: Running, examples: Sequence[Made], count: int, callers: int, seed: int = 0) -> Tally:
    """``count`` requests from ``callers`` threads, each to a model and for rows chosen by chance; blocking."""
    tally = Tally()
    lock = threading.Lock()
    left = iter(range(count))

    def caller(number: int) -> None:
        chance = random.Random(f"{seed}/{number}")
        connection = server.connect(timeout_s=120)
        while True:
            with lock:
                if next(left, None) is None:
                    break
            made = chance.choice(examples)
            rows = np.array([chance.randrange(made.rows) for _ in range(chance.choice((1, 1, 2, 5)))])
            try:
                problem = ask(connection, made, rows)
            except (OSError, ValueError, http.client.HTTPException) as error:
                problem = repr(error)
                connection.close()
            with lock:
                if problem:
                    tally.wrong.append(f"{made.identifier}: {problem}")
                else:
                    tally.right[made.identifier] += 1
        connection.close()

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return tally


def ask(connection: http.client.HTTPConnection, made: Made, rows: Any) -> str:
    """One request; what was wrong with its answer, empty if nothing."""
    data = {name: listed(values[rows]) for name, values in made.inputs.items()}
    body = json.dumps({"model_name": made.identifier, "data": data})
    connection.request("POST", "/", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    content = response.read()
    if response.status != 200:
        return f"status {response.status}: {content[:200]!r}"
    answers = json.loads(content)
    if set(answers) != set(made.expected):
        return f"outputs {sorted(answers)}"
    for name, values in answers.items():
        want = made.expected[name][rows]
        if want.dtype.kind == "f":
            tolerance = made.example.tolerance
            same = np.shape(values) == want.shape and np.allclose(
                np.array(values, float), want, rtol=tolerance, atol=tolerance, equal_nan=True
            )
        else:
            same = values == listed(want)
        if not same:
            return f'output "{name}" of rows {rows.tolist()}: {str(values)[:200]}'
    return ""


def listed(values: Any) -> Any:
    """Nested lists; ``null`` where a string is missing."""
    if values.dtype != object:
        return values.tolist()
    return [value.decode() or None for value in values.tolist()]
