"""The command: what it lists, what it passes on, and how fast its help is."""

import subprocess
import sys
from pathlib import Path

import pytest

import span_electra
from span_electra.cli.main import COMMANDS, main

HELP_SECONDS = 2.0


@pytest.fixture
def program(tmp_path) -> Path:
    """The script that an installation makes of the entry point."""
    path = tmp_path / "span-electra"
    path.write_text("from span_electra.cli.main import main\nmain()\n")
    return path


def test_without_a_command_all_are_listed(capsys):
    main([])
    output = capsys.readouterr().out
    assert all(f"\n  {name} " in output for name in COMMANDS) and "accelerate launch" in output


def test_the_version_is_the_packages(capsys):
    main(["--version"])
    assert capsys.readouterr().out.strip() == span_electra.__version__


def test_an_unknown_command_is_refused_with_the_nearest_name(capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(["tokenise", "--input", "x"])
    assert exit_info.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: tokenise ") and "did you mean tokenizer?" in line


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_the_help_of_its_module_under_its_own_name(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["span-electra"])
    with pytest.raises(SystemExit) as exit_info:
        main([name, "--help"])
    assert exit_info.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: span-electra {name} ")


def test_a_commands_error_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(
            ["features", "--input", str(tmp_path), "--tokenizer", str(tmp_path), "--output_dir", str(tmp_path / "out")]
        )
    assert exit_info.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")


def test_the_list_of_commands_loads_neither_torch_nor_transformers(program):
    code = f"import runpy, sys\nsys.argv = [{str(program)!r}]\nrunpy.run_path(sys.argv[0], run_name='__main__')\n"
    code += "print(*({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output.splitlines()[-1] == ""


@pytest.mark.slow
def test_the_package_still_registers_its_models_when_it_is_imported():
    code = "import span_electra, transformers; transformers.AutoConfig.for_model('span_electra')"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pretrain", "finetune", "inspect", "export"])
def test_a_command_that_loads_checkpoints_registers_our_models(name, program):
    module, _ = COMMANDS[name]
    code = f"import sys\nsys.argv = [{str(program)!r}]\nimport {module}, transformers\n"
    code += "transformers.AutoConfig.for_model('span_electra')"
    subprocess.run([sys.executable, "-c", code], check=True)
