"""``stfs check``: loads a model as the server would, says what it takes and how fast it is, and what is wrong with it.

Owns the arguments, the findings and how they are printed. (``commands.check`` tries installed platforms.)
"""

from __future__ import annotations

import contextlib
import json
import math
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TextIO

from stfs.batcher.cost import fit_cost
from stfs.calibration.inputs import ways
from stfs.calibration.load import MODEL_RAISES, Recorded, calibrate_model
from stfs.calibration.result import Calibration
from stfs.clients.example import Filled, example
from stfs.commands.arguments import Parser, count, results_only, seconds, write_json
from stfs.commands.local_model import LocalModel, configured, opened
from stfs.commands.platforms import table
from stfs.commands.progress import Progress
from stfs.commands.timing import sizes_up_to, suggest, time_sizes
from stfs.platforms.base import one_line
from stfs.signature import Signature, TensorSpec, zeros
from stfs.warmup.replay import recorded_requests

FEW_SIZES = 3
"""Fewer timed sizes than this fit any line."""
MAX_BODY_CHARACTERS = 2000
"""A longer example is not printed: ``stfs gen-client`` writes a program that makes it."""
WIDTH = 120
EPILOG = """Every option of a model of stfs serve is understood too (see stfs serve --help), such as --model_platform,
--threads, --device, --max_batch_size or --latency_slo_ms; --model_config_file names one model.

status: 0  the model loads and answers
        1  it loads, but does not answer zeros, or something else is wrong
        2  it does not load, or an argument is wrong

Zeros may mean nothing to a model (an empty text is no picture): ask it with data of your own by stfs infer then.
"""


def run(argv: Sequence[str]) -> int:
    """``stfs check ARGV``; the exit status. Raises :class:`stfs.errors.SetupError` if the model does not load."""
    parser = Parser(
        "stfs check",
        "Load the model at PATH, print its signatures, run it on zeros and time batch sizes.",
        EPILOG,
    )
    parser.usage = "stfs check PATH [--version N] [--budget_s S] [--json] [options of stfs serve]"
    parser.add("version", type=count, metavar="N", help="the version to check (default: the latest)")
    parser.add("budget_s", type=seconds, default=5.0, metavar="S", help="seconds that timing may take (default: 5)")
    parser.add_argument("--json", action="store_true", help="write JSON")
    given, rest = parser.parse_known_args(argv)
    model = configured(rest, "stfs check")
    with results_only() as out:
        with contextlib.ExitStack() as stack:
            with Progress(f"loading {model.base_path}"):
                loaded = stack.enter_context(opened(model, given.version))
            report = examine(loaded, given.budget_s)
        if given.json:
            write_json(report, out)
        else:
            _print(report, out)
    return 1 if report["problems"] else 0


def examine(model: LocalModel, budget_s: float) -> dict[str, Any]:
    """What is found, as JSON values: ``model``, ``signatures`` by name, ``problems`` as sentences. Blocking."""
    servable = model.servable
    files = [model.path] if model.path.is_file() else sorted(f for f in model.path.rglob("*") if f.is_file())
    worker = servable.worker_status
    recorded = recorded_requests(model.path, servable, model.signatures)
    with Progress("timing as a start does"):
        kept = calibrate_model(servable, model.signatures, model.config, model.path, lambda: recorded)
    signatures = {
        name: _examine_signature(model, signature, budget_s / len(model.signatures), kept[name], recorded)
        for name, signature in sorted(model.signatures.items())
    }
    problems = [f"signature {name}: {one['zeros']}" for name, one in signatures.items() if one["zeros"] != "answered"]
    return {
        "model": {
            "path": str(model.path),
            "version": model.version,
            "versions": list(model.versions),
            "platform": servable.platform,
            "runtime": servable.runtime,
            "runs_in": "thread" if worker is None else "process",
            "files": len(files),
            "bytes": sum(file.stat().st_size for file in files),
            "default_signature": servable.default_signature,
        },
        "signatures": signatures,
        "example": _example(model),
        "problems": problems,
    }


def _examine_signature(
    model: LocalModel, signature: Signature, budget_s: float, calibration: Calibration, recorded: Recorded
) -> dict[str, Any]:
    told: dict[str, Any] = {
        "inputs": [_tensor(spec) for spec in signature.inputs],
        "outputs": [_tensor(spec) for spec in signature.outputs],
        "batches": signature.batchable,
        "why_not": _why_not(model, signature),
        "zeros": "answered",
        "times": [],
        "cost": None,
        "suggested_max_batch_size": None,
        "calibration": {**calibration.as_json(), "words": calibration.words, "origin": calibration.origin},
    }
    run_model = partial(model.servable.run, signature.name)
    try:
        answer = run_model(zeros(signature.inputs, 1))
        told["answer_shapes"] = {name: list(array.shape) for name, array in answer.items()}
    except MODEL_RAISES as error:
        told["zeros"] = f"zeros are not answered: {one_line(error)}"
        return told
    of_zeros = partial(zeros, signature.inputs)
    tried = ways(signature, recorded.get(signature.name, ()), of_zeros)
    inputs_of = next((make for what, make in tried if what == calibration.ran_on), of_zeros)
    policy = model.config.batch
    sizes = sizes_up_to(policy.max_batch_size) if signature.batchable else [1]
    try:
        with Progress(f"timing {signature.name}", len(sizes)) as progress:
            timed = time_sizes(
                run_model,
                inputs_of,
                sizes,
                budget_s,
                lambda done, rows: progress.at(done, f"{rows} rows"),
            )
    except MODEL_RAISES as error:
        told["zeros"] = f"a larger batch fails: {one_line(error)}"
        return told
    told["times"] = [
        {"rows": one.rows, "ms": one.run_s * 1e3, "worst_ms": one.worst_s * 1e3, "rows_per_s": one.rows_per_s}
        for one in timed
    ]
    if len(timed) >= FEW_SIZES:
        cost = fit_cost([(one.rows, one.run_s) for one in timed])
        told["cost"] = {"alpha_ms": cost.alpha_s * 1e3, "beta_ms": cost.beta_s * 1e3, "relative_error": cost.sigma}
    told["suggested_max_batch_size"] = suggest(timed, policy.latency_slo_s or math.inf) if signature.batchable else 1
    return told


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    told: dict[str, Any] = {"name": spec.name, "dtype": spec.dtype_name, "shape": spec.describe_shape()}
    if spec.values:
        told["values"] = list(spec.values)
    if spec.columns:
        told["columns"] = list(spec.columns)
    if spec.nullable:
        told["nullable"] = True
    return told


def _why_not(model: LocalModel, signature: Signature) -> str:
    """Why its requests do not share runs; empty if they do."""
    if signature.batchable:
        return ""
    if model.config.batchable is False:
        return "batchable is false in the options"
    fixed = [spec for spec in (*signature.inputs, *signature.outputs) if spec.shape is not None]
    for spec in fixed:
        if not spec.varies_in_rows:
            return f'"{spec.name}" has a shape of {spec.describe_shape()}: its first dimension does not vary'
    if not signature.inputs:
        return "it has no inputs"
    if not model.servable.signatures[signature.name].batchable:
        return "its platform says that rows of one run are not independent"
    return "two rows of zeros did not give two rows"


def _example(model: LocalModel) -> dict[str, Any]:
    """A request to try, of the default signature: ``body`` (``None`` if it is too long to print) and ``curl``."""
    signature = model.signatures[model.servable.default_signature]
    data = example(signature, model.servable.platform)
    body: dict[str, Any] = {} if model.config.name == "default" else {"model_name": model.config.name}
    is_short = not any(isinstance(value, Filled) for value in data.values())
    text = json.dumps(body | {"data": data}) if is_short else ""
    serve = f"stfs serve {shlex.quote(str(model.config.base_path))}"
    if not text or len(text) > MAX_BODY_CHARACTERS:
        program = f"stfs gen-client --language python --model_path {shlex.quote(str(model.config.base_path))}"
        return {"body": None, "serve": serve, "curl": None, "program": program}
    curl = f"curl -d {shlex.quote(text)} -H 'Content-Type: application/json' 127.0.0.1:8500"
    return {"body": json.loads(text), "serve": serve, "curl": curl, "program": None}


def _print(report: Mapping[str, Any], out: TextIO) -> None:
    model = report["model"]
    versions = ", ".join(map(str, model["versions"]))
    out.write(
        f"{model['path']}\n"
        f"platform  {model['platform']}, {model['runtime']}\n"
        f"version   {model['version']} (of {versions})\n"
        f"files     {model['files']}, {model['bytes']:,} bytes\n"
    )
    for name, one in report["signatures"].items():
        default = ", the default" if name == model["default_signature"] and len(report["signatures"]) > 1 else ""
        out.write(f"\nsignature {name}{default}\n")
        rows: list[tuple[str, ...]] = [("", "name", "dtype", "shape", "takes")]
        rows += [("input", *_cells(spec)) for spec in one["inputs"]]
        rows += [("output", *_cells(spec)) for spec in one["outputs"]]
        out.write(_indented(table(rows, WIDTH)))
        out.write("  requests share runs\n" if one["batches"] else f"  runs request by request: {one['why_not']}\n")
        if one["times"]:
            rows = [("rows", "ms", "longest ms", "rows/s")]
            rows += [
                (str(t["rows"]), f"{t['ms']:.3f}", f"{t['worst_ms']:.3f}", f"{t['rows_per_s']:,.0f}")
                for t in one["times"]
            ]
            out.write("\n" + _indented(table(rows, WIDTH)))
        if cost := one["cost"]:
            out.write(f"  a run of b rows takes about {cost['alpha_ms']:.3g} + {cost['beta_ms']:.3g} b ms\n")
        if one["batches"] and one["suggested_max_batch_size"]:
            out.write(f"  suggested: --max_batch_size={one['suggested_max_batch_size']}\n")
        if one["batches"]:
            start = one["calibration"]
            out.write(_wrapped(f"a start goes by: {start['words']}{start['origin'] and ', timed ' + start['origin']}"))
            if start["times"] and start["overlap"] is None:
                out.write(_wrapped(f"two batches at once were not tried: {start['why_no_overlap']}"))
    shown = report["example"]
    out.write(f"\nto try it:\n  {shown['serve']}\n  {shown['curl'] or shown['program']}\n")
    if report["problems"]:
        out.write("\nwrong:\n" + "".join(f"  {line}\n" for line in report["problems"]))
    else:
        out.write("\nnothing is wrong\n")


def _cells(spec: Mapping[str, Any]) -> tuple[str, ...]:
    takes = ", ".join(spec.get("values") or spec.get("columns") or ())
    if spec.get("nullable"):
        takes += " or null" if takes else "null too"
    return spec["name"], spec["dtype"], spec["shape"], takes


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent="    ") + "\n"


def _indented(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.splitlines())
