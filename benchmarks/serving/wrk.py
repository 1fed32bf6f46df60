"""Closed-loop load by ``wrk``: some connections, each with one request in flight.

wrk checks statuses only; whoever calls this checks answers before and after, and ``open_loop`` every one. Must not live
here: which servers, how often.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

SCRIPT = """
local body = os.getenv("BENCH_WRK_BODY")
if body ~= "" then
  local file = io.open(body, "rb")
  wrk.method = "POST"
  wrk.body = file:read("*a")
  wrk.headers["Content-Type"] = "application/json"
  file:close()
end
done = function(summary, latency, requests)
  local e = summary.errors
  local p50, p99 = latency:percentile(50), latency:percentile(99)
  io.write(string.format('BENCH {"answers": %d, "microseconds": %d, ', summary.requests, summary.duration))
  io.write(string.format('"p50_us": %f, "p99_us": %f, "refused": %d, ', p50, p99, e.status))
  io.write(string.format('"broken": %d}\\n', e.connect + e.read + e.write + e.timeout))
end
"""


@dataclass(frozen=True)
class Load:
    """What one burst of load got. ``refused`` are answers of status 400 and above, ``broken`` lost connections."""

    answers: int
    seconds: float
    p50_ms: float
    p99_ms: float
    refused: int = 0
    broken: int = 0

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return (self.answers - self.refused) / self.seconds


def parse(output: str) -> Load:
    """The line that the script writes. Raises ``ValueError`` where there is none."""
    for line in output.splitlines():
        if line.startswith("BENCH "):
            told = json.loads(line.removeprefix("BENCH "))
            return Load(
                answers=told["answers"],
                seconds=told["microseconds"] / 1e6,
                p50_ms=told["p50_us"] / 1e3,
                p99_ms=told["p99_us"] / 1e3,
                refused=told["refused"],
                broken=told["broken"],
            )
    raise ValueError(f"wrk told no figures: {output[-300:]!r}")


def run(url: str, body: bytes, connections: int, seconds: float, cores: tuple[int, ...]) -> Load:
    """Load ``url`` from ``cores``. Raises ``FileNotFoundError`` without wrk, ``ValueError`` where it failed."""
    with tempfile.TemporaryDirectory(prefix="bench-wrk-") as folder:
        script, request = Path(folder, "load.lua"), Path(folder, "body")
        script.write_text(SCRIPT)
        request.write_bytes(body)
        # wrk takes whole seconds.
        argv = ["taskset", "-c", ",".join(map(str, cores)), "wrk", "-t1", f"-c{connections}"]
        argv += [f"-d{max(1, round(seconds))}s", "--timeout", "10s", "-s", str(script), url]
        env = {**os.environ, "BENCH_WRK_BODY": str(request) if body else ""}
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=seconds + 60, check=False)
    if done.returncode:
        raise ValueError(f"wrk failed: {(done.stderr or done.stdout)[-300:]}")
    return parse(done.stdout)
