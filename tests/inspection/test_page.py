"""The page: what it shows, what it refuses, and what a run leaves."""

import html
import json
import re
from itertools import pairwise

import pytest
import torch
from trainer_examples import make_trainer, rows, tiny_model, word_tokenizer
from transformers import BertConfig, BertModel

from span_electra import SpanElectraForMaskedLM, SpanEncoderConfig, SpanEncoderForPreTraining
from span_electra.common.errors import InputError
from span_electra.data_collator import DataCollatorForSpanMasking
from span_electra.inspection import page as page_module
from span_electra.inspection.line_chart import charts
from span_electra.inspection.page import embedded_samples, inspect, main, render
from span_electra.inspection.sample_page import MOST_STEPS, SamplePage, thinned
from span_electra.inspection.samples import (
    MOST_PASSAGES,
    WORDS,
    judge,
    make_batch,
    make_piece,
    passages,
    summary,
)

SENTENCE = " ".join(f"w{i}" for i in range(20))
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
HISTORY = [
    {"step": step, "loss": 9.0 - step / 100, "mlm_loss": 5.0 - step / 100, "generator_accuracy": step / 1000}
    for step in (100, 200)
] + [{"step": 200, "eval_loss": 7.0, "eval_mlm_loss": 3.5, "eval_generator_accuracy": 0.25}]


def encoder_pair():
    torch.manual_seed(0)
    return SpanEncoderForPreTraining(
        SpanEncoderConfig(discriminator=BertConfig(**SIZES, vocab_size=99, pad_token_id=2))
    )


PAIRS = {"the ELECTRA pair": tiny_model, "a pair of BERTs": encoder_pair}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Checkpoints that a page can be made of, and some that it cannot."""
    home = tmp_path_factory.mktemp("home")
    saved = {"electra": tiny_model(), "bert_pair": encoder_pair(), "stage": tiny_model(objective="generator")}
    saved["generator"] = SpanElectraForMaskedLM(tiny_model().config)
    saved["encoder"] = BertModel(BertConfig(**SIZES, vocab_size=99))
    for name, model in saved.items():
        model.save_pretrained(home / name)
        word_tokenizer().save_pretrained(home / name)
    (home / "nothing").mkdir()
    (home / "empty.txt").write_text("\n\n")
    (home / "thesis.html").write_text("<p>my only copy</p>")
    return home


def text_of(page: str) -> str:
    """What a reader sees, without markup."""
    body = page.partition("<body>")[2].partition('<script type="application/json"')[0]
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


# --- what the pair does -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", PAIRS)
def test_what_is_shown_is_what_the_joint_step_does(pair):
    model, tokenizer = PAIRS[pair]().eval(), word_tokenizer()
    batch = make_batch(list(rows(4)), DataCollatorForSpanMasking(tokenizer))
    piece = make_piece(tokenizer)
    shown, judged = passages(batch, piece), judge(model, batch, piece)
    with torch.no_grad():
        step = model(**batch)
    for row, passage in enumerate(judged):
        masked = shown[row]["masked"]
        assert masked == (batch["labels"][row] != -100).nonzero().flatten().tolist()
        put = tokenizer.convert_ids_to_tokens(step.corrupted_ids[row, masked].tolist())
        assert [text.strip() for text in passage["put"]] == put
        assert passage["odds"] == (step.logits[row].sigmoid() * 100).round().int().tolist()
        for verdict, is_replaced, logit in zip(
            passage["verdicts"], step.is_replaced[row].tolist(), step.logits[row].tolist(), strict=True
        ):
            right = verdict in ("original", "found")
            assert right == (is_replaced == (logit > 0)) and is_replaced == (verdict in ("found", "missed"))
        best = [
            guesses[0][0] == shown[row]["tokens"][i]
            for i, guesses in zip(masked, passage["from_position"], strict=True)
        ]
        assert best == step.generator_correct[row, masked].tolist()


def test_the_guesses_from_the_boundaries_are_the_boundary_heads():
    model, tokenizer = tiny_model().eval(), word_tokenizer()
    batch = make_batch(list(rows(2)), DataCollatorForSpanMasking(tokenizer))
    before = judge(model, batch, make_piece(tokenizer))
    with torch.no_grad():
        for parameter in model.sbgo_head.parameters():
            parameter.normal_()
    after = judge(model, batch, make_piece(tokenizer))
    assert [row["from_position"] for row in before] == [row["from_position"] for row in after]
    assert [row["from_boundaries"] for row in before] != [row["from_boundaries"] for row in after]


def test_judging_leaves_the_model_and_the_random_numbers_as_they_were():
    model, tokenizer = tiny_model().train(), word_tokenizer()
    batch, state = make_batch(list(rows(2)), DataCollatorForSpanMasking(tokenizer)), torch.get_rng_state()
    judge(model, batch, make_piece(tokenizer))
    assert model.training and torch.equal(torch.get_rng_state(), state)


def test_counts_are_over_all_passages():
    shown = [{"tokens": ["a", " b", " c", " d"], "masked": [1, 2]}]
    judged = [
        {
            "verdicts": ["alarm", "found", "missed", "original"],
            "odds": [60, 90, 10, 5],
            "from_position": [[(" b", 50)], [(" x", 50)]],
            "from_boundaries": [[(" x", 50)], [(" x", 50)]],
        }
    ]
    counts = dict(summary(shown, judged))
    assert counts["masked tokens"] == "2"
    assert counts["guessed right from their position"] == "1 of 2 (50\u00a0%)"
    assert counts["guessed right from the boundaries"] == "0 of 2 (0\u00a0%)"
    assert counts["replaced tokens found"] == "1 of 2 (50\u00a0%)"
    assert counts["false alarms among the others"] == "1 of 2 (50\u00a0%)"


def test_a_page_takes_a_few_dozen_rows_and_prefers_long_ones():
    many = make_batch(list(rows(60)), DataCollatorForSpanMasking(word_tokenizer()))
    assert len(many["labels"]) == MOST_PASSAGES
    short = [{"input_ids": [0, 7, 8, 9, 1]}] * 5
    mixed = make_batch([*short, *rows(30)], DataCollatorForSpanMasking(word_tokenizer()))
    assert mixed["attention_mask"].sum(dim=1).tolist() == [22] * MOST_PASSAGES


# --- the page -----------------------------------------------------------------------------------------------------


def example(labels=("step 100", "step 200"), model=None, tokenizer=None):
    tokenizer = tokenizer or word_tokenizer()
    batch, piece = make_batch(list(rows(3)), DataCollatorForSpanMasking(tokenizer)), make_piece(tokenizer)
    steps = [{"label": label, "passages": judge(model or tiny_model(), batch, piece)} for label in labels]
    return {"passages": passages(batch, piece), "steps": steps}


def test_the_page_shows_originals_what_was_put_there_and_both_kinds_of_guesses():
    samples = example()
    seen = text_of(render("my_model", samples, HISTORY))
    passage, judged = samples["passages"][0], samples["steps"][-1]["passages"][0]
    i = passage["masked"][0]
    assert f"masked, was {passage['tokens'][i].strip()} , now {judged['put'][0].strip()}" in seen
    assert WORDS[judged["verdicts"][i]] in seen
    for title, guesses in (("From position", "from_position"), ("From boundaries", "from_boundaries")):
        text, share = judged[guesses][0][0]
        assert f"{title} {text.strip()} {share} %" in seen
    assert "MLM loss 3.5000" in seen and "step 200" in seen


def test_without_sbgo_there_are_no_guesses_from_the_boundaries():
    page = render("m", example(model=tiny_model(use_sbgo=False)), [])
    assert "From position" in page and "From boundaries" not in page


def test_a_generator_alone_is_shown_without_a_judgement():
    seen = text_of(render("m", example(model=tiny_model(objective="generator")), []))
    assert "not trained" in seen and "false alarm" not in seen and "From position" in seen


def test_nothing_in_the_text_becomes_markup():
    evil, samples = """</script><script>alert("1' &amp;")</script>""", example()
    passage, judged = samples["passages"][0], samples["steps"][-1]["passages"][0]
    passage["tokens"][1] = passage["tokens"][passage["masked"][0]] = passage["seen"][0] = judged["put"][0] = evil
    judged["from_position"][0][0] = judged["from_boundaries"][0][0] = (evil, 5)
    page = render(evil, samples, [], note=evil)
    assert "alert(" in page and "<script>alert" not in page and page.count("<script") == 3
    assert page.count("</script") == 3
    assert embedded_samples(page) == json.loads(json.dumps(samples))


def test_the_page_names_no_other_address():
    page = render("m", example(), HISTORY)
    assert set(re.findall(r"(?:src|href)=.(.)", page)) == {"#", "d"} and page.count('href="data:,"') == 1
    assert "default-src 'none'" in page and "url(" not in page and "@import" not in page


def test_a_chart_says_in_words_what_it_draws():
    (losses, accuracy) = charts([*HISTORY, {"step": 300, "mlm_loss": float("nan")}])
    assert "MLM loss from 3.5 to 3.5" in losses["words"]
    assert losses["ends"] == {"left": "100", "right": "200", "low": "3", "high": "4"}
    assert losses["lines"][0]["line"] == "0.0,0.0 320.0,150.0"
    assert [dot[2] for dot in accuracy["lines"][0]["dots"]] == ["step 200: 0.25"]


def test_a_run_without_history_has_no_charts():
    assert charts([]) == []
    assert "without the history" in text_of(render("m", example(), []))


# --- the command --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["electra", "bert_pair"])
def test_a_sentence_is_masked_in_several_ways(home, tmp_path, name, capsys):
    main([str(home / name), "--text", SENTENCE, "--output", str(tmp_path / "page.html")])
    assert capsys.readouterr().out.strip() == str(tmp_path / "page.html")
    samples = embedded_samples((tmp_path / "page.html").read_text())
    texts = {"".join(passage["tokens"]) for passage in samples["passages"]}
    assert texts == {f" [CLS] {SENTENCE} [SEP]"}
    assert len({tuple(passage["masked"]) for passage in samples["passages"]}) > 3


def test_a_text_longer_than_the_model_becomes_several_passages(home, tmp_path):
    text = " ".join(f"w{i % 94}" for i in range(200))
    (tmp_path / "long.txt").write_text(text)
    for given in (text, str(tmp_path / "long.txt")):
        page = inspect(home / "electra", given, tmp_path / "page.html", overwrite=True).read_text()
        assert max(len(passage["tokens"]) for passage in embedded_samples(page)["passages"]) == 32
        assert "reads 32 tokens at a time" in text_of(page)


def test_the_slider_goes_through_the_checkpoints_of_a_run(home, tmp_path, tokenizer):
    run = tmp_path / "run"
    trainer = make_trainer(tokenizer, run, max_steps=4, save_strategy="steps", save_steps=2, learning_rate=0.1)
    trainer.train()
    (run / "arguments.json").write_text(json.dumps({"mask_ratio": 0.4, "max_seq_length": 12}))
    page = inspect(run, SENTENCE, tmp_path / "page.html").read_text()
    samples = embedded_samples(page)
    assert [step["label"] for step in samples["steps"]] == ["step 2", "step 4"]
    assert samples["steps"][0]["passages"] != samples["steps"][1]["passages"]
    assert max(len(passage["tokens"]) for passage in samples["passages"]) == 12
    assert "MLM loss" in page  # from the checkpoint's own history: the run has not ended
    trainer.save_model()
    again = embedded_samples(inspect(run, SENTENCE, tmp_path / "again.html").read_text())
    assert [step["label"] for step in again["steps"]] == ["step 2", "step 4"]  # which the final model is


REFUSED = {
    "no such model": ({"checkpoint": "{home}/absent"}, "absent"),
    "a folder without a model": ({"checkpoint": "{home}/nothing"}, "config.json"),
    "an encoder": ({"checkpoint": "{home}/encoder"}, "BertModel.*no generator"),
    "a generator alone": ({"checkpoint": "{home}/generator"}, "SpanElectraForMaskedLM.*no discriminator"),
    "no text": ({"text": " \n"}, "--text is empty"),
    "an empty file": ({"text": "{home}/empty.txt"}, "empty.txt.*no text"),
    "no such file": ({"text": "{home}/absent.txt"}, "absent.txt: no such file"),
    "words without a token": ({"text": "zebra"}, "zebra: has no token that could be masked"),
    "an output that exists": ({"output": "{home}/thesis.html"}, "thesis.html: exists.*--overwrite"),
    "a folder for output": ({"output": "{home}"}, "is a folder"),
    "an output nowhere": ({"output": "{home}/nowhere/page.html"}, "no folder"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_gets_a_message_and_changes_nothing(home, tmp_path, capsys, case):
    changes, pattern = REFUSED[case]
    options = {"checkpoint": "{home}/electra", "text": SENTENCE, "output": str(tmp_path / "page.html")} | changes
    options = {name: value.replace("{home}", str(home)) for name, value in options.items()}
    with pytest.raises(SystemExit) as exit_info:
        main([options["checkpoint"], "--text", options["text"], "--output", options["output"]])
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert exit_info.value.code == 2 and message.startswith("error: ")
    assert re.search(pattern, message), message
    assert not (tmp_path / "page.html").exists()
    assert (home / "thesis.html").read_text() == "<p>my only copy</p>"


def test_overwrite_replaces_a_page_and_nothing_else(home, tmp_path):
    page = inspect(home / "electra", SENTENCE, tmp_path / "page.html")
    before = page.read_text()
    inspect(home / "stage", SENTENCE, page, overwrite=True)
    assert page.read_text() != before
    with pytest.raises(InputError, match=r"thesis\.html: exists and is not such a page"):
        inspect(home / "electra", SENTENCE, home / "thesis.html", overwrite=True)
    assert (home / "thesis.html").read_text() == "<p>my only copy</p>"


# --- the page of a run --------------------------------------------------------------------------------------------


def run_with_page(tokenizer, folder, **arguments):
    trainer = make_trainer(
        tokenizer, folder, **{"max_steps": 4, "eval_strategy": "steps", "eval_steps": 2} | arguments
    )
    trainer.add_callback(SamplePage(trainer))
    return trainer


def test_a_run_leaves_a_page_with_a_sample_of_each_evaluation(tokenizer, tmp_path):
    run_with_page(tokenizer, tmp_path / "run").train()
    page = (tmp_path / "run" / "samples.html").read_text()
    samples = embedded_samples(page)
    assert [step["step"] for step in samples["steps"]] == [2, 4]
    assert len(samples["passages"]) == 10
    assert "What run makes of held-out text" in text_of(page) and "Last evaluation" in page


def test_a_run_with_a_page_trains_to_the_same_weights(tokenizer, tmp_path):
    weights = []
    for make in (run_with_page, make_trainer):
        trainer = make(tokenizer, tmp_path / make.__name__, max_steps=4, eval_strategy="steps", eval_steps=2)
        trainer.train()
        weights.append(trainer.model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_resumed_run_continues_its_page(tokenizer, tmp_path):
    saves = {"save_strategy": "steps", "save_steps": 2}
    run_with_page(tokenizer, tmp_path / "run", **saves).train()
    whole = embedded_samples((tmp_path / "run" / "samples.html").read_text())
    resumed = run_with_page(tokenizer, tmp_path / "run", **saves)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert embedded_samples((tmp_path / "run" / "samples.html").read_text()) == whole


def test_a_torn_page_begins_anew(tokenizer, tmp_path):
    trainer = run_with_page(tokenizer, tmp_path / "run")
    (tmp_path / "run" / "samples.html").write_text('<script type="application/json" id="samples">{"pass')
    trainer.train()
    assert len(embedded_samples((tmp_path / "run" / "samples.html").read_text())["steps"]) == 2


def test_a_page_that_fails_stops_no_run(tokenizer, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("span_electra.inspection.sample_page.judge", lambda *_: 1 / 0)
    trainer = run_with_page(tokenizer, tmp_path / "run")
    trainer.train()
    assert trainer.state.global_step == 4 and not (tmp_path / "run" / "samples.html").exists()
    assert "samples.html could not be written (ZeroDivisionError" in caplog.text


def test_many_samples_are_thinned_evenly():
    steps = []
    for step in range(1, 101):
        steps = thinned([*steps, {"step": step}])
    kept = [step["step"] for step in steps]
    gaps = [later - earlier for earlier, later in pairwise(kept)]
    assert len(kept) == MOST_STEPS and (kept[0], kept[-1]) == (1, 100)
    assert max(gaps[:-1]) <= 4 * min(gaps[:-1])


def test_the_template_is_read_once():
    assert page_module.template() is page_module.template()
