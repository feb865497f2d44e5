"""What is refused, in which words, and that nothing is touched."""

import pytest
from finetuning_examples import NER, QA, SCORES, arguments
from refusals import assert_refused

from span_electra.run_finetuning import main

REFUSED = {
    "unknown label": (
        {"validation_file": "{home}/unknown_label.jsonl"},
        r"unknown_label\.jsonl, row 2: the label '7' does not occur in .*train\.jsonl, which has 0, 1\. Correct",
    ),
    "one label": ({"train_file": "{home}/one_label.jsonl"}, r"one_label\.jsonl: all rows have the label '1'"),
    "missing column": (
        {"train_file": "{home}/no_label.jsonl"},
        r"no_label\.jsonl: no column 'label'\. The columns are: sentence1, kind\. .*--columns label=NAME",
    ),
    "missing named column": ({"columns": "label=gold"}, r"no column 'gold'\. The columns are: sentence1, label"),
    "one column twice": (
        {"columns": "sentence2=sentence1"},
        r"the column 'sentence1' cannot be both sentence1 and sentence2",
    ),
    "several labels": ({"train_file": "{home}/label_lists.jsonl"}, r"row 1: the label \[0, 1\] is not one value"),
    "answers that are no lists": (
        QA | {"train_file": "{home}/squad_flat.jsonl"},
        r"q: answers is .*'Ada'.*Accepted: .*\[texts\]",
    ),
    "weights in part": (
        {"model_name_or_path": "{home}/half_empty"},
        r"half_empty: 16 of the encoder's weights are missing .*layer\.1.*from_scratch",
    ),
    "weights of another shape": (
        {"model_name_or_path": "{home}/other_shape"},
        r"other_shape: \d+ of the encoder's weights are missing or of another shape",
    ),
    "cut weights": ({"model_name_or_path": "{home}/cut_short"}, r"cut_short: cannot be used \(Error while"),
    "smoothed scores": (
        SCORES | {"label_smoothing_factor": 0.1},
        r"--label_smoothing_factor is 0\.1; --task regression",
    ),
    "smoothed ends of answers": (QA | {"label_smoothing_factor": 0.1}, r"--task question-answering has no"),
    "metrics batch by batch": ({"batch_eval_metrics": True}, r"--batch_eval_metrics is True; .* leave it out"),
    "no metrics": ({"prediction_loss_only": True}, r"--prediction_loss_only is True; .* leave it out"),
    "batches left apart": (
        {"eval_do_concat_batches": False},
        r"--eval_do_concat_batches is False; .* leave it out",
    ),
    "unknown column": ({"columns": "labl=gold"}, r"--columns labl=gold: give one of sentence1, .* label=NAME"),
    "column without name": ({"columns": "label"}, r"--columns label: .* label=NAME"),
    "saved by another rule": (
        {"save_strategy": "no"},
        r"save and eval strategy to match, .*Save strategy: .*NO",
    ),
    "no label": ({"validation_file": "{home}/empty_label.jsonl"}, r"row 2: no label\. Give each row one"),
    "not a number": ({"validation_file": "{home}/nan_label.jsonl"}, r"row 1: no label\. Give each row one"),
    "text is a number": ({"train_file": "{home}/number_text.jsonl"}, r"row 1: sentence1 is 5, which is not text"),
    "pairs and singles": ({"train_file": "{home}/pairs.jsonl"}, r"only one of them has the column 'sentence2'"),
    "scores as labels": (
        {"train_file": "{home}/scores_train.jsonl", "validation_file": "{home}/scores_dev.jsonl"},
        r"the label 2\.5 is a score\. Use --task regression\. .* v2\.5\.",
    ),
    "words as scores": (
        SCORES | {"validation_file": "{home}/word_scores.jsonl"},
        r"word_scores\.jsonl, row 1: the label 'high' is not a number",
    ),
    "constant scores": (SCORES | {"train_file": "{home}/same_scores.jsonl"}, r"all rows have the label 2\.5"),
    "unknown tag": (
        NER | {"validation_file": "{home}/ner_unknown.jsonl"},
        r"row 2, tag 1: .*'ship' does not occur in .*ner_train\.jsonl, which has person, place\.",
    ),
    "uneven tags": (NER | {"train_file": "{home}/ner_uneven.jsonl"}, r"tokens and ner_tags .* 2 long and 1 long"),
    "not BIO": (NER | {"train_file": "{home}/ner_not_bio.jsonl"}, r"row 1, tag 1: 'NOUN' is not a BIO tag"),
    "tag ids": (NER | {"train_file": "{home}/ner_ids.jsonl"}, r"row 1, tag 1: 3 is not a BIO tag"),
    "no entities": (
        NER | {"train_file": "{home}/ner_outside.jsonl"},
        r"all tags are O\. Give rows that have entities",
    ),
    "answer elsewhere": (
        QA | {"train_file": "{home}/squad_elsewhere.json"},
        r"q5-0: the answer 'Zuse' is not at character \d+ of its context: it is not in the context\. Correct",
    ),
    "answer shifted": (QA | {"validation_file": "{home}/squad_shifted.json"}, r"q5-0: the answer .*: it is at \d+\."),
    "no answer": (QA | {"train_file": "{home}/squad_unanswered.json"}, r"q5-0: 0 answers at 0 positions"),
    "no context": (
        QA | {"train_file": "{home}/squad_no_context.json"},
        r"not in SQuAD's format \(KeyError: 'context'",
    ),
    "no such file": ({"train_file": "{home}/missing.jsonl"}, r"missing\.jsonl: no such file"),
    "no such data set": ({"train_file": "user/missing"}, r"user/missing: neither a file, .* can be loaded"),
    "unknown suffix": (
        {"train_file": "{home}/table.xlsx"},
        r"table\.xlsx: unknown suffix '\.xlsx'; accepted are \.jsonl",
    ),
    "broken lines": ({"train_file": "{home}/broken.jsonl"}, r"broken\.jsonl, line 2: not JSON"),
    "not UTF-8": (
        {"train_file": "{home}/latin.jsonl"},
        r"latin\.jsonl, line 1, byte 19: 0xe9 is not UTF-8",
    ),
    "labels of two types": (
        {"train_file": "{home}/mixed.jsonl"},
        r"mixed\.jsonl: the column 'label' holds values of several types",
    ),
    "no table": ({"train_file": "{home}/number.json"}, r"number\.json: not rows\. Accepted: one JSON object per line"),
    "commas without quotes": (
        {"train_file": "{home}/commas.csv"},
        r"commas\.csv, line 3: 3 fields, but the first line names 2 columns",
    ),
    "empty file": ({"train_file": "{home}/empty.jsonl"}, r"empty\.jsonl: no rows"),
    "no rows": ({"train_file": "{home}/no_rows.csv"}, r"no_rows\.csv: no rows"),
    "a folder": ({"train_file": "{home}/used"}, r"used: a folder\. Give a \.jsonl, "),
    "no known token": (
        NER | {"validation_file": "{home}/ner_empty.jsonl"},
        r"ner_empty\.jsonl: no row has a token that the tokenizer knows",
    ),
    "blank answer": (QA | {"train_file": "{home}/squad_blank.json"}, r"the answer ' ' is not at character \d+"),
    "answers longer than a row": (
        QA | {"train_file": "{home}/squad_long.json", "max_seq_length": 32},
        r"squad_long\.json: no window of 32 tokens holds the whole answer of 1 of 1 questions\. Raise",
    ),
    "predictions": ({"do_predict": True}, r"--do_predict is True; .* leave it out"),
    "seeds past the last": ({"seed": 2**32 - 1, "seeds": 2}, r"the last seed must be at most 4294967295"),
    "no model of text": ({"model_name_or_path": "{home}/vit"}, r"vit: a vit is not a text encoder"),
    "no questions": (QA | {"train_file": "{home}/squad_empty.json"}, r"squad_empty\.json: no rows"),
    "no training data": ({"train_file": None}, r"--train_file is missing"),
    "no validation data": ({"validation_file": None}, r"--validation_file is missing: the best checkpoint"),
    "no task": ({"task": None}, r"--task is missing; accepted are classification, regression, token-class"),
    "unknown task": ({"task": "ner"}, r"--task is 'ner'; accepted are"),
    "no model": ({"model_name_or_path": None}, r"--model_name_or_path is missing"),
    "no such model": ({"model_name_or_path": "{home}/missing"}, r"missing: cannot be used"),
    "no tokenizer": ({"tokenizer": "{home}/halves"}, r"The tokenizer .*halves: cannot be used .*--tokenizer"),
    "generator": (
        {"model_name_or_path": "{home}/generator"},
        r"saved as ElectraForMaskedLM, a generator\. Fine-tune the discriminator: ",
    ),
    "SpanElectra's generator": (
        {"model_name_or_path": "{home}/span_generator"},
        r"was saved as SpanElectraForMaskedLM, a generator",
    ),
    "first of two stages": (
        {"model_name_or_path": "{home}/first_stage"},
        r"first_stage: only its generator was trained.* --objective discriminator --generator .*first_stage\.",
    ),
    "unknown option": ({"seds": 5}, r"--seds is not an option: did you mean --seeds\?"),
    "too long": ({"max_seq_length": 65}, r"--max_seq_length is 65; it must lie between 16 and 64"),
    "too short": ({"max_seq_length": 8}, r"--max_seq_length is 8; it must lie between 16 and 64"),
    "large stride": ({"max_seq_length": 32, "stride": 20}, r"--stride is 20; it must be at most half"),
    "no seeds": ({"seeds": 0}, r"--seeds is 0; it must be at least 1"),
    "learning without end": ({"learning_rate": "inf"}, r"--learning_rate is inf; it must be at least 0 and finite"),
    "growing rates": ({"layerwise_lr_decay": 1.5}, r"--layerwise_lr_decay is 1\.5; it must lie in \(0, 1\]"),
    "all dropped": ({"dropout": 1}, r"--dropout is 1\.0; it must lie in \[0, 1\)"),
    "no epochs": ({"num_train_epochs": 0}, r"--num_train_epochs is 0\.0; it must be above 0"),
    "no evaluation": ({"eval_strategy": "no"}, r"--eval_strategy is no; .* evaluation: leave it out"),
    "unknown metric": ({"metric_for_best_model": "bleu"}, r"is 'bleu'; accepted here are accuracy, .*, loss\."),
    "upload": ({"push_to_hub": True}, r"--push_to_hub is True; .* hf upload"),
    "resume": ({"resume_from_checkpoint": "true"}, r"--resume_from_checkpoint is true; .* leave it out"),
    "no output": ({"output_dir": None}, r"--output_dir is missing"),
    "used folder": ({"output_dir": "{home}/used"}, r"already holds something else .*thesis\.txt"),
    "earlier run": ({"output_dir": "{home}/run"}, r"already holds a run; replace it with --overwrite_output_dir"),
    "pretraining's folder": (
        {"output_dir": "{home}/pretraining_run", "overwrite_output_dir": True},
        r"already holds something else",
    ),
    "the model's own folder": (
        {"output_dir": "{home}/electra", "overwrite_output_dir": True},
        r"is inside --output_dir, which --overwrite_output_dir would empty",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_in_one_line_and_nothing_is_touched(home, tmp_path, capsys, case):
    assert_refused(main, arguments, REFUSED[case], home, tmp_path, capsys)
