"""The private names of transformers' Trainer: where they stand, and that they are what they were."""

import ast
import inspect
import re
from pathlib import Path

import pytest
import transformers
from transformers import Trainer

from span_electra.training.private_trainer import CHECKED_ON, PRIVATE_NAMES, PrivateTrainer

ROOT = Path(inspect.getfile(PrivateTrainer)).parents[1]
FOLDERS = ("common", "conversion", "finetuning", "hub", "masking", "pretraining", "tokenization", "training", ".")
INHERITED = {name for name in dir(Trainer) if re.match("_[a-z]", name)}


@pytest.mark.parametrize("name", PRIVATE_NAMES)
def test_a_private_name_is_what_it_was(name):
    expected, reason = PRIVATE_NAMES[name]
    version = f"transformers {transformers.__version__} (checked: {', '.join(CHECKED_ON)})"
    method = getattr(Trainer, name, None)
    assert method is not None, f"{version} has no Trainer.{name} any more, which this package overrides: {reason}"
    found = list(inspect.signature(method).parameters)
    assert found == expected, (
        f"{version} changed Trainer.{name}: it takes {found}, not {expected}. Used since it {reason}"
    )


@pytest.mark.parametrize("name", PRIVATE_NAMES)
def test_the_library_still_calls_it(name):
    assert f"self.{name}(" in inspect.getsource(Trainer), f"transformers {transformers.__version__} calls no {name}"


def test_no_other_module_names_a_private_part_of_the_trainer():
    for folder in FOLDERS:
        for path in (ROOT / folder).glob("*.py"):
            if path.name == "private_trainer.py":
                continue
            tree = ast.parse(path.read_text(encoding="utf-8"))
            is_trainer = any(isinstance(node, ast.ClassDef) and "Trainer" in node.name for node in ast.walk(tree))
            used = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and is_trainer}
            used |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and is_trainer}
            assert not used & INHERITED, f"{path.relative_to(ROOT)}: {used & INHERITED}"
