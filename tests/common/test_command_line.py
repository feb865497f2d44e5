"""Recipes by name."""

from span_electra.pretraining.arguments import parse_arguments

NEEDED = ["--output_dir", "out", "--train_file", "text", "--report_to", "none"]


def test_a_recipe_of_the_package_is_found_by_its_name_unless_a_file_has_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, data, training = parse_arguments(["demo.yaml", *NEEDED])
    assert (model.config, data.max_seq_length, training.max_steps) == ("tiny", 32, 5000)
    (tmp_path / "demo.yaml").write_text("config: small\n")
    assert parse_arguments(["demo.yaml", *NEEDED])[0].config == "small"
