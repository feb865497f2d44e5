"""What a run leaves for people."""

import json
import struct

import pytest
import yaml

from span_electra.pretraining.history import last_metrics, metric_rows
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


def test_without_an_evaluation_the_last_training_log_is_shown():
    assert last_metrics(HISTORY[:1] + HISTORY[2:3])["loss"] == 28.0
    assert last_metrics([]) == {} and metric_rows({}) == []
