from __future__ import annotations

import json

import pytest
from odd_estimators import write_odd
from running import Running, running
from simple_models import write_linear, write_many


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Running:
    """One real server with a linear ONNX model, one with many inputs, and a model that misbehaves on request."""
    folder = tmp_path_factory.mktemp("models")
    write_linear(folder / "linear" / "1")
    write_many(folder / "many" / "3")
    write_odd(folder / "odd" / "1")
    entries = [{"name": name, "base_path": str(folder / name)} for name in ("linear", "many", "odd")]
    config = folder / "models.json"
    config.write_text(json.dumps({"model_config_list": entries}))
    with running(f"--model_config_file={config}", "--max_request_bytes=1M") as server:
        yield server
