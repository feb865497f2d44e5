"""What is shipped: the package, and nothing that is not the package."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import span_electra

ROOT = Path(span_electra.__file__).parent
LEFT_OUT = ("setup.py", "tests", "benchmarks", "docs", "Makefile", "constraints.txt")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A wheel and a source distribution, built from a copy without git, environment or caches."""
    source = tmp_path_factory.mktemp("source") / "anything"
    hidden = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "runs")
    shutil.copytree(ROOT, source, ignore=hidden)
    build = "import setuptools.build_meta as b; b.build_wheel('out'); b.build_sdist('out')"
    (source / "out").mkdir()
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    return source / "out"


def test_the_wheel_holds_the_package_and_nothing_else(built):
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"span_electra"}
    package = {name.removeprefix("span_electra/") for name in names if name.startswith("span_electra/")}
    modules = {path.name for path in ROOT.glob("*.py")} - {"setup.py"}
    assert {name for name in package if "/" not in name} == modules
    assert {
        "configs/tiny.json",
        "configs/recipes/demo.yaml",
        "tokenization/text.py",
        "inspection/page.html",
    } <= package
    assert not [name for name in package if name.startswith(LEFT_OUT)]


def test_the_version_is_the_one_that_the_package_names(built):
    for archive in built.iterdir():
        assert archive.name.startswith(f"span_electra-{span_electra.__version__}"), archive.name


def test_the_source_distribution_builds_the_same_wheel(built, tmp_path):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    build = "import setuptools.build_meta as b; b.build_wheel('.')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (again,), (wheel,) = source.glob("*.whl"), built.glob("*.whl")
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())
