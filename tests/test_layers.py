"""The house: what each folder may import, read from the imports themselves."""

import ast
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

import span_electra

ROOT = Path(span_electra.__file__).parent
# Each layer imports from those before it; folders of one layer do not know each other.
ROOT_MODULES = ("configuration_span_electra", "span_objectives", "modeling_span_electra", "data_collator")
LAYERS = (
    ("common",),
    ("masking",),
    ("tokenization",),
    ROOT_MODULES,
    ("encoders",),
    ("conversion",),
    ("training",),
    ("hub",),
    ("pretraining", "finetuning"),
    ("inspection",),
    ("run_pretraining", "run_finetuning", "__init__", "examples"),
    ("cli",),
)
FOLDERS = [part for layer in LAYERS for part in layer if (ROOT / part).is_dir()]
TRAVEL_WITH_CHECKPOINTS = ("configuration_span_electra", "span_objectives", "modeling_span_electra")
NOT_FOR_MODELS = {"os", "shutil", "pathlib", "huggingface_hub.ModelCard", "huggingface_hub.HfApi"}


def package_files() -> list[Path]:
    return [*(ROOT / f"{part}.py" for layer in LAYERS for part in layer if part not in FOLDERS)] + [
        path for folder in FOLDERS for path in (ROOT / folder).glob("*.py")
    ]


def part_of(path: Path) -> str:
    """The folder of a file, or its own name in the root."""
    relative = path.relative_to(ROOT)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(path: Path) -> set[str]:
    """The dotted names that a file imports, also within functions; relative ones in full."""
    package = ["span_electra", *path.relative_to(ROOT).parts[:-1]]
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def parts_imported(path: Path) -> set[str]:
    known = {part for layer in LAYERS for part in layer}
    return {name.split(".")[1] for name in imports(path) if name.startswith("span_electra.")} & known


def test_every_module_stands_in_a_layer():
    known = {part for layer in LAYERS for part in layer} | {"setup"}
    assert {path.stem for path in ROOT.glob("*.py")} <= known
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert folders - {"configs"} == set(FOLDERS)


@pytest.mark.parametrize("path", package_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_from_its_own_part_and_the_layers_before_it(path):
    part = part_of(path)
    (level,) = (level for level, layer in enumerate(LAYERS) if part in layer)
    below = {other for layer in LAYERS[:level] for other in layer}
    if part not in FOLDERS:
        below |= set(LAYERS[level])
    assert parts_imported(path) - {part} <= below


def test_no_two_folders_import_each_other():
    arrows = defaultdict(set)
    for path in package_files():
        arrows[part_of(path)] |= parts_imported(path) - {part_of(path)}
    seen: list[str] = []

    def visit(part: str, way: tuple[str, ...]) -> None:
        assert part not in way, f"a cycle: {' -> '.join((*way, part))}"
        if part not in seen:
            for other in arrows[part]:
                visit(other, (*way, part))
            seen.append(part)

    for part in list(arrows):
        visit(part, ())


@pytest.mark.parametrize("name", TRAVEL_WITH_CHECKPOINTS)
def test_what_travels_with_a_checkpoint_imports_only_what_travels_with_it(name):
    tree = ast.parse((ROOT / f"{name}.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1 and node.module in TRAVEL_WITH_CHECKPOINTS
        elif isinstance(node, ast.ImportFrom):
            assert not node.module.startswith("span_electra")
    assert not imports(ROOT / f"{name}.py") & NOT_FOR_MODELS


def test_masking_needs_no_torch():
    for path in (ROOT / "masking").glob("*.py"):
        assert not {name for name in imports(path) if name.split(".")[0] == "torch"}


@pytest.mark.slow
def test_the_first_look_loads_neither_plots_nor_classifiers():
    # `--help` imports the package first, so that one process shows both.
    code = (
        "import contextlib, io, sys\nfrom span_electra.run_pretraining import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()): main(['--help'])\n"
        "print(*({'matplotlib', 'sklearn'} & set(sys.modules)))"
    )
    library = "import sys\nfrom transformers import PreTrainedModel, Trainer\nprint(*({'sklearn'} & set(sys.modules)))"
    ours, theirs = (
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
        for script in (code, library)
    )
    assert set(ours) <= set(theirs)  # older versions of Transformers load scikit-learn themselves
