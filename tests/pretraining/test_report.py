"""What a run leaves for people."""

import json
import struct

import pytest
import yaml

from span_electra.pretraining.history import evaluation_points, last_evaluations, last_training, metric_rows
from span_electra.pretraining.report import write_report

HISTORY = [
    {"step": 100, "loss": 30.0, "mlm_loss": 6.0, "rtd_loss": 0.4, "generator_accuracy": 0.1, "discriminator_auc": 0.6},
    {"step": 100, "eval_loss": 29.0, "eval_generator_accuracy": 0.12, "eval_generator_accuracy_baseline": 0.06},
    {"step": 200, "loss": 28.0, "mlm_loss": 5.0, "rtd_loss": 0.3, "generator_accuracy": 0.2, "discriminator_auc": 0.7},
    {"step": 200, "eval_loss": 27.0, "eval_generator_accuracy": 0.22, "eval_generator_accuracy_baseline": 0.06},
    {"step": 200, "train_runtime": 12.0, "train_loss": 29.0},
]
SETTINGS = {"train_file": ["/home/someone/corpus"], "learning_rate": 5e-4, "max_steps": 200, "num_train_epochs": 3.0}
SETTINGS |= {"hub_token": "<HUB_TOKEN>", "config": "tiny", "model_name_or_path": None}


@pytest.fixture
def report(tmp_path):
    return tmp_path, write_report(str(tmp_path), SETTINGS, HISTORY)


def test_history_holds_the_arguments_and_every_log(report):
    content = json.loads((report[0] / "history.json").read_text())
    assert content == {"arguments": SETTINGS, "history": HISTORY}


def test_curves_are_a_png_of_a_readable_size(report):
    image = (report[0] / "curves.png").read_bytes()
    assert image[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", image[16:24])
    assert width > 1000 and height > 300


def test_curves_need_no_history(tmp_path):
    write_report(str(tmp_path), SETTINGS, [])
    assert (tmp_path / "curves.png").stat().st_size > 0


def test_the_model_card_names_data_options_figures_and_ways_to_load(report):
    card = (report[0] / "README.md").read_text()
    _, front, text = card.split("---\n", 2)
    assert yaml.safe_load(front)["library_name"] == "transformers"
    assert "200 steps on corpus" in text and "/home/someone" not in text
    assert "| generator_accuracy | 0.2200 | baseline 0.0600 |" in text
    assert "| `learning_rate` | 0.0005 |" in text and "model_name_or_path" not in text
    for expected in ("](curves.png)", "AutoModel.from_pretrained", "ElectraModel.from_pretrained", '"fill-mask"'):
        assert expected in text


def test_the_table_shows_the_last_evaluation_beside_its_baselines(report):
    assert "generator_accuracy                  0.2200  baseline 0.0600" in report[1]
    assert "27.0000" in report[1] and "28.0000" not in report[1]


def test_without_an_evaluation_training_s_last_log_is_shown_as_what_it_is(tmp_path):
    table = write_report(str(tmp_path), SETTINGS, HISTORY[:1] + HISTORY[2:3])
    card = (tmp_path / "README.md").read_text()
    assert "## Evaluation" not in card and "model-index" not in card
    assert (
        card.count("| loss | 28.0000 |") == 1 and "## Training, last log (step 200; there was no evaluation)" in card
    )
    assert table.startswith("training, last log") and "28.0000" in table and "evaluation:" not in table


def test_without_a_log_there_is_no_table(tmp_path):
    assert last_evaluations([]) == {} and last_training([]) == {} and metric_rows({}) == []
    assert write_report(str(tmp_path), SETTINGS, []).startswith("\nsaved to")
    assert "| metric |" not in (tmp_path / "README.md").read_text()


def test_each_evaluation_set_is_shown_by_its_name(tmp_path):
    sets = {"news": 0.25, "mlm_talks": 0.5}
    history = [HISTORY[0]]
    for step, more in ((100, 0.0), (200, 0.125)):
        for name, accuracy in sets.items():
            prefix = f"eval_{name}"
            history.append({"step": step, f"{prefix}_loss": 27.0, f"{prefix}_mlm_loss": 5.0})
            history[-1] |= {f"{prefix}_generator_accuracy": accuracy + more}
            history[-1] |= {f"{prefix}_generator_accuracy_baseline": 0.06}
    table = write_report(str(tmp_path), SETTINGS, history)
    card = (tmp_path / "README.md").read_text()
    for name, accuracy in sets.items():
        section = card.split(f"## Evaluation: {name}\n")[1].split("##")[0]
        assert f"| generator_accuracy | {accuracy + 0.125:.4f} | baseline 0.0600 |" in section
        assert f"evaluation of {name}:" in table
    results = yaml.safe_load(card.split("---\n")[1])["model-index"][0]["results"]
    assert {result["dataset"]["name"]: result["metrics"][0]["value"] for result in results} == {
        name: accuracy + 0.125 for name, accuracy in sets.items()
    }
    assert evaluation_points(history, "generator_accuracy") == [(100, 0.25), (100, 0.5), (200, 0.375), (200, 0.625)]
