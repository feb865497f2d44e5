"""Linear probes on hidden states of which it is known what they hold."""

import json
import random
import re

import datasets
import pytest
import torch
from torch import nn
from trainer_examples import make_trainer, tiny_pair
from transformers.modeling_outputs import BaseModelOutput

from span_electra.common.errors import InputError
from span_electra.inspection.line_chart import charts
from span_electra.pretraining import linear_probe
from span_electra.pretraining.arguments import DataArguments
from span_electra.pretraining.linear_probe import build_probes, probe_names
from span_electra.pretraining.report import write_report


def probes(tokenizer, folder, max_seq_length=8, **files):
    """The probes of files with these rows."""
    paths = [folder / f"{name}.jsonl" for name in files]
    for path, rows in zip(paths, files.values(), strict=True):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DataArguments(probe_file=[str(path) for path in paths], max_seq_length=max_seq_length)
    return build_probes(data, tokenizer)


class Knows(nn.Module):
    """Hidden states from which it can be read whether a text begins with w0 (`sentence`) or what a token is, or
    nothing."""

    device = torch.device("cpu")

    def __init__(self, what=None):
        super().__init__()
        self.what = what

    def encode_corrupted(self, input_ids, attention_mask, **kwargs):
        hidden = torch.randn(*input_ids.shape, 8, generator=torch.Generator().manual_seed(1)) / 10
        if self.what == "sentence":
            hidden[..., 0] += 3 * (input_ids[:, 1:2] == 5)
        elif self.what == "token":
            hidden[..., :4] += 3 * nn.functional.one_hot(input_ids % 4, 4)
        hidden += 1000.0 * (attention_mask == 0).unsqueeze(-1)  # padding must not count
        return BaseModelOutput(last_hidden_state=hidden)


@pytest.fixture
def sentences():
    chance = random.Random(0)
    rows = []
    for i in range(240):
        words = [f"w{i % 2}"] + [f"w{chance.randrange(2, 90)}" for _ in range(chance.randrange(1, 12))]
        rows.append({"text": " ".join(words), "label": ["one", "other"][i % 2]})
    return rows


def tagged(tag_of, count=80, longest=12):
    """Rows of words, some of them empty. `tag_of` gives the tag of w0, w1, ..."""
    chance = random.Random(0)
    drawn = [[chance.randrange(90) for _ in range(chance.randrange(longest + 1))] for _ in range(count)]
    return [{"tokens": [f"w{i}" for i in row], "ner_tags": [tag_of(i) for i in row]} for row in drawn]


ENTITIES = ("O", "O", "B-person", "I-person")  # by the number of a word, whose token's id is 5 more


def test_a_probe_of_sentences_tells_what_hidden_states_hold(tokenizer, tmp_path, sentences):
    (probe,) = probes(tokenizer, tmp_path, sst=sentences)
    assert max(map(len, probe.rows["input_ids"])) == 8
    assert probe.metrics(Knows("sentence")) == {"probe_sst_accuracy": 1.0, "probe_sst_accuracy_baseline": 0.5}
    assert probe.metrics(Knows())["probe_sst_accuracy"] < 0.65


def test_a_probe_of_entities_tells_what_hidden_states_hold(tokenizer, tmp_path):
    rows = tagged(lambda i: ENTITIES[(i + 5) % 4])
    (probe,) = probes(tokenizer, tmp_path, ner=rows)
    # Of each row, the six words that its eight tokens have room for; the empty ones are left out.
    assert probe.tags == [row["ner_tags"][:6] for row in rows if row["tokens"]]
    assert probe.metrics(Knows("token")) == {"probe_ner_f1": 1.0, "probe_ner_f1_baseline": 0.0}
    assert probe.metrics(Knows())["probe_ner_f1"] < 0.35


def test_a_probe_of_other_tags_is_measured_by_accuracy(tokenizer, tmp_path):
    rows = tagged(lambda i: (i + 5) % 4, longest=5)
    rows = [{"words": row["tokens"], "labels": row["ner_tags"]} for row in rows]  # by other names
    (probe,) = probes(tokenizer, tmp_path, pos=rows)
    tags = [tag for row in rows for tag in row["labels"]]
    most = max(map(tags.count, range(4))) / len(tags)
    assert probe.metrics(Knows("token")) == {"probe_pos_accuracy": 1.0, "probe_pos_accuracy_baseline": most}
    assert probe.metrics(Knows())["probe_pos_accuracy"] < 0.45


@pytest.mark.parametrize("make_model", [None, tiny_pair])
def test_all_probes_are_scored_at_an_evaluation_and_shown(tokenizer, tmp_path, sentences, make_model):
    both = probes(tokenizer, tmp_path, sst=sentences[:60], ner=tagged(lambda i: ENTITIES[i % 4], 30))
    trainer = make_trainer(tokenizer, tmp_path / "run", make_model and make_model())
    trainer.probes = both
    metrics = trainer.evaluate()
    for probe in both:
        expected = probe.metrics(trainer.model.eval())
        assert {name: metrics[f"eval_{name}"] for name in expected} == expected
    assert metrics["eval_probe_sst_accuracy"] > 0.5 and metrics["eval_probe_ner_f1"] > 0.1
    drawn = [chart["title"] for chart in charts(trainer.state.log_history)]
    assert drawn[-2:] == ["Linear probe: sst accuracy", "Linear probe: ner f1"]
    table = write_report(str(tmp_path / "run"), {}, trainer.state.log_history)
    shown = f"| probe_ner_f1 | {metrics['eval_probe_ner_f1']:.4f} | baseline 0.0000 |"
    assert shown in (tmp_path / "run" / "README.md").read_text() and "probe_sst_accuracy " in table


def test_a_probe_uses_a_bounded_part_of_its_file_and_says_which(tokenizer, tmp_path, sentences, monkeypatch, caplog):
    monkeypatch.setattr(linear_probe, "MOST_TEXTS", 100)
    monkeypatch.setattr(linear_probe, "MOST_WORDS", 120)
    rows = tagged(lambda i: ENTITIES[i % 4])
    with caplog.at_level("INFO"):
        texts, words = probes(tokenizer, tmp_path, sst=sentences, ner=rows)
    assert len(texts.labels) == 100 and 60 < len(words.labels) < 180
    assert re.search(r"sst\.jsonl: every evaluation classifies 100 of its 240 texts", caplog.text)
    count, used = sum(len(row["tokens"]) for row in rows), len(words.labels)
    assert (
        f"ner.jsonl: every evaluation tags {used} of its {count} words, in {len(words.tags)} of 80 rows" in caplog.text
    )


REFUSED = {
    "sentences beside tagged words": (
        [{"tokens": ["w1"], "ner_tags": ["O"]}, {"text": "w1", "label": 0}],
        r"bad\.jsonl, row 2: has no tokens, although other rows do\. Put sentences and tagged words into files of",
    ),
    "tags that do not match": (
        [{"tokens": ["w1"], "labels": ["O"]}, {"tokens": ["w1", "w2"], "labels": ["O"]}],
        r"bad\.jsonl, row 2: tokens and ner_tags must be lists of the same length; they are 2 long and 1 long",
    ),
    "a tag that is none": (
        [{"tokens": ["w1", "w2"], "labels": ["O", None]}],
        r"bad\.jsonl, row 1, tag 2: is None; give text or a whole number",
    ),
    "one tag": (tagged(lambda i: "O"), r"bad\.jsonl: tags 1 \(O\), rows 7\d\. Give at least 2 tags"),
    "a second tag in one row": (
        [*tagged(lambda i: "O", 20), {"tokens": ["w1"], "ner_tags": ["B-x"]}],
        r"bad\.jsonl: tags 2 \(B-x, O\), rows 20\. Give at least 2 tags, each in several of at least 5 rows",
    ),
    "few rows": (tagged(lambda i: ENTITIES[i % 4], 4), r"bad\.jsonl: tags 3 .*, rows \d\. Give"),
    "no word": ([{"tokens": [], "ner_tags": []}] * 9, r"bad\.jsonl: tags 0 \(\), rows 0"),
    "words without tags": ([{"tokens": ["w1"], "tag": ["O"]}], r"no column 'ner_tags' or 'tags' or 'labels'\."),
}


@pytest.mark.parametrize(("rows", "message"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_cannot_be_probed_is_refused(tokenizer, tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        probes(tokenizer, tmp_path, bad=rows)


def test_a_numbered_label_without_a_name_is_refused(tokenizer, tmp_path):
    names = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])})
    rows = {"text": ["w1 w2"] * 20, "label": [0, 1, -1, 1] * 5}  # as in a test split without labels
    datasets.Dataset.from_dict(rows, features=names).to_parquet(tmp_path / "test.parquet")
    data = DataArguments(probe_file=[str(tmp_path / "test.parquet")], max_seq_length=16)
    with pytest.raises(InputError, match=r"test\.parquet, row 3: the label is -1; accepted are 0 to 1 \(bad, good\)"):
        build_probes(data, tokenizer)


def test_files_are_called_by_as_much_of_their_path_as_tells_them_apart():
    assert probe_names(["tasks/sst2.jsonl"]) == ["sst2"] and probe_names([]) == []
    assert probe_names(["glue:sst2", "owner/wnut-17", "a/conll.2003.json"]) == ["glue_sst2", "wnut_17", "conll_2003"]
    assert probe_names(["a/sst2/train.jsonl", "a/wnut17/train.jsonl"]) == ["sst2_train", "wnut17_train"]
    for same in (["a.jsonl", "a.jsonl"], ["a-b.jsonl", "a_b.jsonl"]):
        with pytest.raises(InputError, match=r"--probe_file .*: the scores of two of them would have the same name"):
            probe_names(same)
