import importlib.util
import os
import subprocess
import sys

import pytest

from stfs import codec

BUILT = importlib.util.find_spec("stfs._fastjson") is not None


def in_a_fresh_process(code: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | env,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.skipif(not BUILT, reason="stfs._fastjson is not built here")
def test_the_compiled_twin_is_the_one_loaded():
    code = "from stfs import codec; print(codec.ACCELERATED, codec.Reader.__module__, codec.encode.__module__)"
    assert in_a_fresh_process(code, STFS_PURE_PYTHON="") == "True stfs._fastjson stfs._fastjson"


def test_the_environment_chooses_the_readable_twin():
    code = "from stfs import codec; print(codec.ACCELERATED, codec.Reader.__module__, codec.encode.__module__)"
    said = in_a_fresh_process(code, STFS_PURE_PYTHON="1")
    assert said == "False stfs.codec_py.read stfs.codec_py.write"


def test_without_the_extension_the_readable_twin_is_used():
    code = "import sys; sys.modules['stfs._fastjson'] = None; from stfs import codec; print(codec.ACCELERATED)"
    assert in_a_fresh_process(code, STFS_PURE_PYTHON="") == "False"


def test_a_round_trip_through_whichever_is_loaded():
    reader = codec.Reader(b'[[1.5, "x"]]')
    reader.enter_array()
    assert reader.next_item()
    assert reader.value() == [1.5, "x"]
    assert not reader.next_item()
    reader.end()
