"""What is promised to those who install: light, in step with itself, and whole in a wheel."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import warnings
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
BOOK_LAB = ROOT / "book" / "lab"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
HARD = [Requirement(text) for text in PROJECT["project"]["dependencies"]]
EXTRAS = {
    name: [Requirement(text) for text in texts]
    for name, texts in PROJECT["project"]["optional-dependencies"].items()
}
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}


def run_python(code: str, folder: Path) -> str:
    """Output of a fresh interpreter, in a folder where only what is installed can be imported."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_takes_little_beyond_torch(tmp_path: Path) -> None:
    code = (
        "import time; import torch; before = time.process_time(); import ibau_lite;"
        "print((time.process_time() - before) / before)"
    )
    assert any(float(run_python(code, tmp_path)) < 0.2 for _ in range(3))


def test_every_room_opens_by_name_and_none_needs_what_only_some_use(tmp_path: Path) -> None:
    code = (
        "import sys, ibau_lite as ib\n"
        "names = {'IBAU', 'diagnose', 'hypergradient', 'ibau'}\n"
        "for room in set(ib.__all__) - names:\n"
        "    assert getattr(ib, room).__name__ == f'ibau_lite.{room}'\n"
        "assert all(callable(getattr(ib, name)) for name in names)\n"
        "assert set(ib.__all__) <= set(dir(ib))\n"
        "print(*{'torchvision', 'matplotlib', 'ipywidgets', 'sklearn', 'PIL'} & set(sys.modules))"
    )
    assert run_python(code, tmp_path).strip() == ""


def test_a_room_that_does_not_exist_is_named() -> None:
    import ibau_lite

    with pytest.raises(AttributeError, match="no attribute 'cellar'"):
        _ = ibau_lite.cellar


def test_hard_dependencies_have_lower_bounds_only() -> None:
    """Any other bound would fight with the versions that Colab ships."""
    for requirement in HARD:
        assert [part.operator for part in requirement.specifier] == [">="], str(requirement)


def test_pins_satisfy_every_bound_on_every_supported_python() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    for python in ("3.10", "3.11", "3.12", "3.13"):
        where = {**default_environment(), "python_version": python}
        holding = [pin for pin in pins if pin.marker is None or pin.marker.evaluate(where)]
        version = {canonicalize_name(pin.name): pin.specifier for pin in holding}
        assert len(version) == len(holding), f"a package is pinned twice for Python {python}"
        for requirement in [*HARD, *EXTRAS["book"], *EXTRAS["test"]]:
            (pin,) = version[canonicalize_name(requirement.name)]
            assert pin.operator == "=="
            assert requirement.specifier.contains(pin.version), (python, requirement, pin)


def test_conda_environment_is_in_step() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    conda = [Requirement(text) for text in environment["dependencies"] if isinstance(text, str)]
    stated = {item.name: item.specifier for item in conda}
    assert str(stated.pop("python")) == PROJECT["project"]["requires-python"]
    stated.pop("pip")
    asked = [*HARD, *EXTRAS["book"], *EXTRAS["test"]]
    assert stated == {CONDA_NAMES.get(item.name, item.name): item.specifier for item in asked}


def test_repository_is_named_in_one_place() -> None:
    """_config.yml says where the book lives; whatever repeats it must agree."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    url = config["repository"]["url"]
    assert PROJECT["project"]["urls"]["Homepage"] == url
    assert citation["repository-code"] == url


def test_citation_names_the_version_of_the_library() -> None:
    import ibau_lite

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == ibau_lite.__version__


def installed_paths() -> set[str]:
    """Where each module of the repository lies once it is installed."""
    library = [path.relative_to(ROOT) for path in ROOT.glob("ibau_lite/**/*.py")]
    theory = ["ibau_lite" / path.relative_to(ROOT) for path in ROOT.glob("theory/**/*.py")]
    lab = BOOK_LAB.rglob("*.py")
    laboratory = ["ibau_lab" / path.relative_to(BOOK_LAB) for path in lab]
    return {path.as_posix() for path in [*library, *theory, *laboratory]}


def test_every_package_is_listed() -> None:
    """Setuptools cannot find `theory` by itself, so the list is written by hand."""
    listed = {name.replace(".", "/") for name in PROJECT["tool"]["setuptools"]["packages"]}
    assert listed == {path.rpartition("/")[0] for path in installed_paths()}


def test_wheel_holds_modules_and_networks_and_nothing_beside_the_library(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("ibau_lite", "theory", "book/lab"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = f"-m pip wheel -q --no-deps --no-index --no-build-isolation -w {tmp_path} {source}"
    subprocess.run([sys.executable, *command.split()], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name for name in names if name.endswith(".py")} == installed_paths()
    networks = (ROOT / "ibau_lite" / "zoo" / "networks").iterdir()
    carried = {name for name in names if "/networks/" in name}
    assert carried == {path.relative_to(ROOT).as_posix() for path in networks}


def test_sdist_holds_the_repository(tmp_path: Path) -> None:
    """Whoever unpacks it can run the tests and build the book."""
    git = ["git", "-C", str(ROOT), "ls-files", "-z"]
    listed = subprocess.run(git, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a clone: the sdist cannot be compared with what git tracks")
    tracked = {name for name in listed.stdout.split("\0") if (ROOT / name).is_file()}
    for name in tracked:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    code = "from setuptools import build_meta; build_meta.build_sdist('dist')"
    run_python(code, tmp_path)
    (archive,) = tmp_path.glob("dist/*.tar.gz")
    with tarfile.open(archive) as tar:
        carried = {member.name.partition("/")[2] for member in tar}
    assert tracked - carried == set()


@pytest.mark.parametrize("module", ["ibau_lite.sets", "ibau_lab.plan", "tests.test_sets"])
def test_our_own_deprecation_warnings_are_errors(module: str) -> None:
    with pytest.raises(DeprecationWarning):
        warnings.warn_explicit("old", DeprecationWarning, "file.py", 1, module=module)


def test_make_refuses_an_old_python_and_says_what_to_do(tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\ncase "$2" in *print*) echo 3.9;; *) exit 1;; esac\n')
    old.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    done = subprocess.run(
        ["make", "book", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert re.search(r"Python 3\.10 or newer is needed; found: \S+python3\.9 \(3\.9\)", done.stderr)
    assert not (tmp_path / ".venv").exists()
