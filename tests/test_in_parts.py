"""``tests/in_parts.py`` runs each test once."""

from collections import Counter
from pathlib import Path

import in_parts


def test_every_file_of_tests_is_in_one_part():
    tests = Path(in_parts.__file__).parent
    found: Counter[Path] = Counter()
    for part in in_parts.parts():
        for name in part:
            path = tests / name
            found.update([path] if path.is_file() else path.rglob("test_*.py"))
    assert found == Counter(tests.rglob("test_*.py"))
