"""The script: what it refuses, in which words and without touching anything, and the journey of a run."""

import errno
import fcntl
import json
import os
import re
import shutil
import signal
from importlib.resources import files

import datasets
import pytest
import torch
from refusals import assert_refused, snapshot
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    ElectraConfig,
    ElectraForMaskedLM,
    ElectraForPreTraining,
    Trainer,
    TrainingArguments,
)

from span_electra import SpanElectraForMaskedLM, SpanElectraForPreTraining
from span_electra.common.errors import InputError
from span_electra.configuration_span_electra import SpanElectraConfig
from span_electra.conversion.export import export
from span_electra.data_collator import DataCollatorForSpanMasking, largest_masked_share
from span_electra.pretraining.arguments import ModelArguments, PretrainingArguments, parse_arguments
from span_electra.pretraining.electra_pair import new_model, settle_config
from span_electra.pretraining.model import build_model
from span_electra.pretraining.model_files import read_config
from span_electra.pretraining.rows import build_rows, resolve_rows
from span_electra.pretraining.tokenizer import build_tokenizer
from span_electra.run_pretraining import build_trainer, main, run
from span_electra.tokenization.create_features import METADATA, create_features
from span_electra.tokenization.train_tokenizer import train_tokenizer
from span_electra.training import resuming
from span_electra.training.checkpoint_folders import damage
from span_electra.training.output_dir import LOCK, check_run_folder
from span_electra.training.resuming import check_same_checkpoint, check_shape, check_sharding
from span_electra.training.shutdown import InterruptedRun

torch.set_num_threads(1)  # more cost time on models as small as these
SIZES = {"embedding_size": 16, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 64, "max_position_embeddings": 64}
WORDS = [f"word{i**2}" for i in range(21)]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with text, two tokenizers, features and configurations; nothing in it may change."""
    home = tmp_path_factory.mktemp("home")
    lines = [" ".join(WORDS[i % 7 : 5 + i % 13 + i % 11]) for i in range(600)]
    (home / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    (home / "empty.txt").write_text("")
    train_tokenizer([home / "text.txt"], home / "tokenizer", vocab_size=280)
    train_tokenizer([home / "text.txt"], home / "other_tokenizer", vocab_size=270)
    made = {"max_seq_length": 32, "documents": "file"}
    create_features([home / "text.txt"], str(home / "tokenizer"), home / "features", **made)
    write = {"tiny": SIZES, "narrow": SIZES | {"vocab_size": 100}, "wrong_id": SIZES | {"mask_id": 4}}
    write |= {
        "misspelt": SIZES | {"hiden_size": 32},
        "old": SIZES | {"mask_ratio": 0.3, "max_seq_len": 48, "pad_id": 2},
    }
    write |= {"bad_ratio": SIZES | {"mask_ratio": 1.5}, "text_ratio": SIZES | {"mask_ratio": "0.2"}}
    write |= {"saved": SIZES | {"transformers_version": "5.17.0", "temperature": 1.0}}
    write |= {"saved_misspelt": write["saved"] | {"rtd_wieght": 25}}
    write |= {"text_size": SIZES | {"hidden_size": "64"}, "bad_act": SIZES | {"hidden_act": "gelux"}}
    write |= {"twice": SIZES | {"max_span_len": 5, "max_span_length": 6}}
    for name, settings in write.items():
        (home / f"{name}.json").write_text(json.dumps(settings))
    (home / "broken.json").write_text("{")
    (home / "repeated.json").write_text('{"hidden_size": 32, "hidden_size": 64}')
    (home / "one_class.jsonl").write_text('{"text": "a word", "label": 1}\n' * 9)
    examples = [{"text": " ".join(WORDS[i % 7 :]), "label": i % 2} for i in range(20)]
    (home / "two_classes.jsonl").write_text("".join(json.dumps(example) + "\n" for example in examples))
    (home / "reviews.jsonl").write_text('{"review": "a word", "label": 1}\n' * 9)
    (home / "null_text.jsonl").write_text('{"text": "a word", "label": 1}\n{"text": null, "label": 0}\n')
    (home / "null_label.jsonl").write_text('{"text": "a", "label": 1}\n' * 2 + '{"text": "b", "label": null}\n')
    (home / "used").mkdir()
    (home / "used" / "thesis.txt").write_text("my only copy")
    (home / "run").mkdir()
    (home / "run" / "arguments.json").write_text("{}")
    (home / "run" / "history.json").write_text("{}")
    for name, text in RECIPES.items():
        (home / f"{name}.yaml").write_text(text)
    model = SpanElectraForPreTraining(SpanElectraConfig(**SIZES, vocab_size=280))
    for name in ("trained", "cut_short"):
        model.save_pretrained(home / name)
    with (home / "cut_short" / "model.safetensors").open("r+b") as weights:
        weights.truncate(1000)
    (home / "no_mask").mkdir()
    tokenizer = AutoTokenizer.from_pretrained(home / "tokenizer")
    tokenizer.mask_token = None
    tokenizer.save_pretrained(home / "no_mask")
    return home


RECIPES = {
    "list_rate": "learning_rate: [1]",
    "no_rate": "learning_rate:",
    "half_row": "per_device_train_batch_size: 8.5",
}


def arguments(home, folder, **changes):
    options = {"config": home / "tiny.json", "tokenizer": home / "tokenizer", "train_file": home / "text.txt"}
    options |= {"output_dir": folder, "features_cache_dir": folder.parent / "cache", "max_steps": 4}
    options |= {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 8, "max_seq_length": 32}
    options |= {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "logging_steps": 1, "save_steps": 2}
    options |= {"documents": "file", "eval_steps": 2, "validation_split_percentage": 10}
    options = {name: value for name, value in (options | changes).items() if value is not None}
    return [str(part) for name, value in options.items() for part in (f"--{name}", value)]


REFUSED = {
    "one setting twice": (
        {"config": "{home}/twice.json"},
        r"twice\.json: .*max_span_len is 5 and max_span_length is 6",
    ),
    "no such text": ({"train_file": "{home}/missing.txt"}, r"missing\.txt"),
    "empty text": ({"train_file": "{home}/empty.txt"}, r"empty\.txt.*empty"),
    "no text given": ({"train_file": None}, r"--train_file is missing"),
    "no output": ({"output_dir": None}, r"--output_dir is missing"),
    "no tokenizer": ({"tokenizer": None}, r"--tokenizer is missing.*train_tokenizer"),
    "no such tokenizer": ({"tokenizer": "{home}/missing"}, r"The tokenizer .*missing: cannot be used"),
    "no mask token": ({"tokenizer": "{home}/no_mask"}, r"no_mask: the tokenizer has no mask_token"),
    "large vocabulary": ({"config": "{home}/narrow.json"}, r"needs a vocab_size of 280, but the model's is 100"),
    "no length": ({"max_seq_length": 0}, r"--max_seq_length is 0; it must be at least 1"),
    "too long": ({"max_seq_length": 65}, r"Rows of 65 tokens do not fit the model's 64 positions"),
    "too short": ({"max_seq_length": 4}, r"max_seq_length=4 is too short"),
    "mask ratio": ({"mask_ratio": 1.0}, r"--mask_ratio is 1\.0; it must lie between 0 and 1"),
    "overrides that are no JSON": ({"config_overrides": "a=1"}, r"--config_overrides a=1: not valid JSON"),
    "overrides without end": ({"config_overrides": "[" * 100_000 + "]" * 100_000}, r"not valid JSON"),
    "a number too long": (
        {"config_overrides": f'{{"rtd_weight": {"9" * 5000}}}'},
        r"not valid JSON|a loss weight must be finite",
    ),
    "a weight past every float": (
        {"config_overrides": f'{{"rtd_weight": {"9" * 400}}}'},
        r"`rtd_weight` is 9+; a loss weight must be finite",
    ),
    "a temperature of nothing": (
        {"config_overrides": '{"sampling_temperature": 1e-320}'},
        r"`sampling_temperature` is 1e-320; it must be above 0",
    ),
    "more than any memory": (
        {"config_overrides": '{"max_span_length": 1000000000000000}'},
        r"tiny.*: .*(allocate|memory|storage)",
    ),
    "an override given twice": (
        {"config_overrides": '{"rtd_weight": 1, "rtd_weight": 2}'},
        r"--config_overrides .*\(rtd_weight is given twice\)",
    ),
    "a file that gives a setting twice": (
        {"config": "{home}/repeated.json"},
        r"repeated\.json: .*hidden_size is given twice",
    ),
    "overrides without names": ({"config_overrides": "[1]"}, r"--config_overrides \[1\]: a list; give names"),
    "overrides of what weights settle": (
        {"config": None, "model_name_or_path": "{home}/trained", "config_overrides": '{"use_sbgo": false}'},
        r"--config_overrides: `use_sbgo` would contradict the weights of .*trained; accepted are mlm_weight, ",
    ),
    "overrides that do not go with the weights": (
        {"config": None, "model_name_or_path": "{home}/trained", "config_overrides": '{"rtd_weight": -1}'},
        r"trained: cannot be used \(`rtd_weight` is -1; a loss weight must be finite and at least 0",
    ),
    "a stage in which the generator would change": (
        {"config": None, "model_name_or_path": "{home}/trained", "objective": "discriminator"},
        r"trained: cannot be used \(`objective` is 'discriminator' and `embedding_sharing` is 'tied'",
    ),
    "an unknown override": ({"config_overrides": '{"use_sbg": false}'}, r"`use_sbg` is not .* mean `use_sbgo`"),
    "an unknown override of a saved file": (
        {"config": "{home}/saved.json", "config_overrides": '{"rtd_wieght": 25}'},
        r"--config_overrides: cannot be used \(`rtd_wieght` is not .* mean `rtd_weight`",
    ),
    "an unknown setting in a saved file": (
        {"config": "{home}/saved_misspelt.json"},
        r"--config .*misspelt\.json: cannot be used \(`rtd_wieght` is not .* mean `rtd_weight`",
    ),
    "another library's name": (
        {"config_overrides": '{"temperature": 0.5}'},
        r"`temperature` is not .* mean `sampling_temperature`",
    ),
    "steps without end": ({"logging_steps": "inf"}, r"--logging_steps is inf; give a number of steps"),
    "steps that are no number": ({"save_steps": "nan"}, r"--save_steps is nan; give a number of steps"),
    "no span": ({"max_span_words": 0}, r"--max_span_words is 0; it must be at least 1"),
    "no such probe": ({"probe_file": "{home}/missing.jsonl"}, r"missing\.jsonl: no such file"),
    "a probe of one class": ({"probe_file": "{home}/one_class.jsonl"}, r"classes 1, .*smallest 9\. .* at least 2"),
    "a probe of other columns": (
        {"probe_file": "{home}/reviews.jsonl"},
        r"reviews\.jsonl: no column 'sentence1' or 'text' or 'sentence'.*Rename",
    ),
    "a probe without text": (
        {"probe_file": "{home}/null_text.jsonl"},
        r"--probe_file .*null_text\.jsonl, row 2: sentence1 is None, which is not text",
    ),
    "a probe without label": (
        {"probe_file": "{home}/null_label.jsonl"},
        r"--probe_file .*null_label\.jsonl, row 3: has no label; give one in every row",
    ),
    "a cache that the run would take for its own": (
        {"output_dir": "{home}/new", "features_cache_dir": "{home}/new/../new/cache"},
        r"--features_cache_dir .*cache: .*--output_dir",
    ),
    "a probe without evaluation": (
        {"probe_file": "{home}/two_classes.jsonl", "validation_split_percentage": 0},
        r"--probe_file: is scored whenever the model is evaluated",
    ),
    "mask ratio in the file": ({"config": "{home}/bad_ratio.json"}, r"mask_ratio is 1\.5; it must lie between"),
    "used folder": ({"output_dir": "{home}/used"}, r"already holds something else .*thesis\.txt"),
    "used, overwrite": (
        {"output_dir": "{home}/used", "overwrite_output_dir": True},
        r"already holds something else",
    ),
    "a file as folder": ({"output_dir": "{home}/text.txt"}, r"text\.txt: is a file"),
    "earlier run": ({"output_dir": "{home}/run"}, r"already holds a run; .* --resume_from_checkpoint true"),
    "other tokenizer": (
        {"train_file": "{home}/features", "tokenizer": "{home}/other_tokenizer"},
        r"made with another tokenizer",
    ),
    "longer features": ({"train_file": "{home}/features", "max_seq_length": 16}, r"up to 32 tokens, more than .* 16"),
    "no checkpoint": ({"resume_from_checkpoint": "{home}/tokenizer"}, r"tokenizer: not a usable checkpoint"),
    "no checkpoint yet": (
        {"output_dir": "{home}/run", "resume_from_checkpoint": "true"},
        r"true: no usable checkpoint, there is none in .*run",
    ),
    "no steps": ({"max_steps": 0}, r"--max_steps is 0; it must be at least 1"),
    "no epochs": ({"max_steps": None, "num_train_epochs": -1}, r"--num_train_epochs is -1\.0; it must be above 0"),
    "no rows": ({"max_train_samples": 0}, r"--max_train_samples is 0; it must be at least 1"),
    "learning without end": ({"learning_rate": "inf"}, r"--learning_rate is inf; it must be at least 0 and finite"),
    "epochs without end": (
        {"max_steps": None, "num_train_epochs": "inf"},
        r"--num_train_epochs is inf; it must be above 0 and finite",
    ),
    "growing weights": ({"weight_decay": -1}, r"--weight_decay is -1\.0; it must be at least 0 and finite"),
    "no weight decay": ({"weight_decay": "nan"}, r"--weight_decay is nan; it must be at least 0 and finite"),
    "no gradient norm": ({"max_grad_norm": "nan"}, r"--max_grad_norm is nan; it must be at least 0 and finite"),
    "negative epsilon": ({"adam_epsilon": -1}, r"--adam_epsilon is -1\.0; it must be at least 0 and finite"),
    "a mean without end": ({"adam_beta2": 2}, r"Invalid beta parameter at index 1: 2\.0"),
    "an optimizer's settings": (
        {"optim": "adamw_torch", "optim_args": "foo"},
        r"--optim adamw_torch: cannot be used \(not enough values .*--optim_args",
    ),
    "a rate below the schedule's last": (
        {"lr_scheduler_type": "polynomial", "learning_rate": 1e-8},
        r"--lr_scheduler_type polynomial: cannot be used \(lr_end .*--lr_scheduler_kwargs",
    ),
    "no workers to persist": (
        {"dataloader_persistent_workers": True},
        r"--dataloader_.*persistent_workers option needs num_workers > 0",
    ),
    "no such accelerator_config": (
        {"accelerator_config": "missing.json"},
        r"missing\.json: cannot be used \(No such",
    ),
    "an unknown accelerator_config": (
        {"accelerator_config": '{"x": 1}'},
        r"AcceleratorConfig.* unexpected keyword argument 'x'",
    ),
    "no such fsdp_config": ({"fsdp": True, "fsdp_config": "missing.json"}, r"missing\.json: cannot be used \(No such"),
    "rows not shared": (
        {"train_file": "{home}/features", "pack_documents": True},
        r"features: its documents do not share rows.* --pack_documents",
    ),
    "flash for shared rows": (
        {"pack_documents": True, "attn_implementation": "flash_attention_2"},
        r"flash_attention_2: cannot",
    ),
    "negative warm-up": ({"warmup_steps": -5}, r"--warmup_steps is -5\.0; give a number of steps"),
    "other id": ({"config": "{home}/wrong_id.json"}, r"mask_id is 4, but the tokenizer's mask token is 3"),
    "misspelt setting": ({"config": "{home}/misspelt.json"}, r"`hiden_size` .* Did you mean `hidden_size`"),
    "broken file": ({"config": "{home}/broken.json"}, r"broken\.json: not valid JSON"),
    "no such config": ({"config": "huge"}, r"--config huge: no such file, and not one of base, .*tiny, tutorial"),
    "no such model": ({"config": None, "model_name_or_path": "{home}/missing"}, r"missing: cannot be used"),
    "no model": ({"config": None}, r"neither of --config and --model_name_or_path given"),
    "two models": ({"model_name_or_path": "x"}, r"both of --config and --model_name_or_path given"),
    "unknown objective": ({"objective": "both"}, r"--objective is both; accepted are joint, generator, discriminator"),
    "second stage without the first": (
        {"objective": "discriminator"},
        r"--objective discriminator with --config needs --generator",
    ),
    "generator that is not there": (
        {"objective": "discriminator", "generator": "{home}/missing"},
        r"--generator .*missing: cannot be used",
    ),
    "lone generator": ({"generator_name_or_path": "x"}, r"needs --model_name_or_path"),
    "the generator's folder as the run's": (
        {
            "objective": "discriminator",
            "generator": "{home}/run",
            "output_dir": "{home}/run",
            "overwrite_output_dir": 1,
        },
        r"--generator_name_or_path .*run: .*--output_dir",
    ),
    "a probe of no discriminator": (
        {"probe_file": "{home}/two_classes.jsonl", "objective": "generator"},
        r"--probe_file: .* --objective generator",
    ),
    "unknown option": ({"mask_ration": 0.2}, r"--mask_ration is not an option: did you mean --mask_ratio\?"),
    "abbreviated option": ({"max_train": 5}, r"--max_train is not an option"),
    "text as ratio": ({"config": "{home}/text_ratio.json"}, r"mask_ratio is '0\.2'; a number is expected"),
    "text as size": ({"config": "{home}/text_size.json"}, r"text_size\.json: .*hidden_size"),
    "no such activation": ({"config": "{home}/bad_act.json"}, r"gelux"),
    "no such attention": ({"attn_implementation": "foo"}, r"--attn_implementation foo: cannot be used"),
    "smoothed labels": ({"label_smoothing_factor": 0.1}, r"--label_smoothing_factor is 0\.1"),
    "noise in the embeddings": (
        {"neftune_noise_alpha": 5},
        r"--neftune_noise_alpha is 5\.0; .*leave it out",
    ),
    "checkpoints at a signal": (
        {"enable_jit_checkpoint": True},
        r"--enable_jit_checkpoint is True; .*SIGTERM.* leave it out",
    ),
    "to predict": ({"do_predict": True}, r"--do_predict is True; .*leave it out"),
    "no seed": ({"seed": -1}, r"--seed is -1; it must lie between 0 and 4294967295"),
    "no order": ({"data_seed": 2**32}, r"--data_seed is 4294967296; it must lie between"),
    "no workers": ({"dataloader_num_workers": -1}, r"--dataloader_.*num_workers option should be non-negative"),
    "a tracker of no name": (
        {"report_to": "paper"},
        r"--report_to \['paper'\]: cannot be used \(paper is not supported",
    ),
    "an optimizer's package": (
        {"optim": "adamw_anyprecision"},
        r"--optim adamw_anyprecision: cannot be used .*install",
    ),
    "a schedule's settings": (
        {"lr_scheduler_type": "warmup_stable_decay"},
        r"--lr_scheduler_type warmup_stable_decay: .*'num_decay_steps'.*--lr_scheduler_kwargs",
    ),
    "other documents": (
        {"train_file": "{home}/features", "documents": "line"},
        r"features: .*--documents file, not line",
    ),
    "the best by no evaluation": (
        {"load_best_model_at_end": True, "validation_split_percentage": 0},
        r"--load_best_model_at_end: needs evaluations, and this run has none",
    ),
    "a rate by no evaluation": (
        {"lr_scheduler_type": "reduce_lr_on_plateau", "validation_split_percentage": 0},
        r"--lr_scheduler_type reduce_lr_on_plateau: needs evaluations",
    ),
    "a rate by no evaluation, either": (
        {"lr_scheduler_type": "greedy", "validation_split_percentage": 0},
        r"--lr_scheduler_type greedy: needs evaluations",
    ),
    "a metric of no direction": (
        {"load_best_model_at_end": True, "metric_for_best_model": "replaced_share"},
        r"--metric_for_best_model is replaced_share; accepted are loss, ",
    ),
    "a metric of a probe that is not there": (
        {"load_best_model_at_end": True, "metric_for_best_model": "probe_accuracy"},
        r"--metric_for_best_model is probe_accuracy; accepted are loss, ",
    ),
    "another probe's metric": (
        {"probe_file": "{home}/two_classes.jsonl", "metric_for_best_model": "probe_two_classes_f1"},
        r"--metric_for_best_model is probe_two_classes_f1; accepted are loss, .*, probe_two_classes_accuracy\.$",
    ),
    "the other network's metric": (
        {"objective": "generator", "load_best_model_at_end": True, "metric_for_best_model": "eval_discriminator_auc"},
        r"--metric_for_best_model is eval_discriminator_auc; accepted are .* generator_accuracy\.$",
    ),
    "the worst": (
        {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True},
        r"--greater_is_better is True, .*leave it out",
    ),
    "all rows dropped": (
        {"dataloader_drop_last": True, "per_device_train_batch_size": 4000},
        r"--dataloader_drop_last: would drop all \d+ rows, .* a batch of 4000",
    ),
    "half a checkpoint": (
        {"save_only_model": True},
        r"--save_only_model is True; .*resumed .*leave it out",
    ),
    "a batch that is found": ({"auto_find_batch_size": True}, r"--auto_find_batch_size is True; .* not repeat"),
    "rows from the beginning": ({"ignore_data_skip": True}, r"--ignore_data_skip is True; .* twice .*: leave it out"),
    "batches as they come": ({"dataloader_in_order": False}, r"--dataloader_in_order is False; .* left to chance"),
    "an order of no seed": (
        {"train_sampling_strategy": "group_by_length"},
        r"--train_sampling_strategy is group_by_length; .*its order.*: leave it out",
    ),
    "an order of another library": (
        {"accelerator_config": '{"use_seedable_sampler": false}'},
        r"--accelerator_config: use_seedable_sampler is false, .*Leave it out",
    ),
    "a way to start no workers": (
        {"dataloader_multiprocessing_context": "spawn"},
        r"--dataloader_.*multiprocessing_context .*num_workers=0",
    ),
    "kernels for decoders": ({"use_liger_kernel": True}, r"--use_liger_kernel is True; .*leave it out"),
    "a share of one process": ({"fsdp": "full_shard"}, r"--fsdp: .*accelerate launch"),
    "names of labels": ({"label_names": "tags"}, r"--label_names is \['tags'\]; .*leave it out"),
    "rounded weights": (
        {"bf16_full_eval": True},
        r"--bf16_full_eval is True; .* round the weights .* leave it out",
    ),
    "a metric that is not there": (
        {"metric_for_best_model": "accuracy", "load_best_model_at_end": True},
        r"--metric_for_best_model is accuracy; accepted are loss, .*discriminator_auc",
    ),
    "cut weights": (
        {"config": None, "model_name_or_path": "{home}/cut_short"},
        r"cut_short: cannot be used \(Error while deserializing",
    ),
    "a trained discriminator left behind": (
        {"config": None, "model_name_or_path": "{home}/trained", "objective": "generator"},
        r"--objective generator: .*trained has a trained discriminator",
    ),
    "tables come apart": (
        {"config_overrides": '{"tie_word_embeddings": false}'},
        r"tie_word_embeddings is false, .* leave it out\. .*embedding_sharing",
    ),
    "weights trained elsewhere": ({"optim": "schedule_free_adamw"}, r"--optim is schedule_free_adamw, which .*wrong"),
    "document rule": ({"documents": "chapter"}, r"documents='chapter' is not one of"),
}


if "batch_rebalance" in str(TrainingArguments.__dataclass_fields__["train_sampling_strategy"].metadata):
    REFUSED["an order of the devices"] = (
        {"train_sampling_strategy": "batch_rebalance"},
        r"--train_sampling_strategy is batch_rebalance; .*its order.*: leave it out",
    )


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_in_one_line_and_nothing_is_touched(home, tmp_path, capsys, case):
    assert_refused(main, arguments, REFUSED[case], home, tmp_path, capsys)


@pytest.mark.parametrize("option", ["features_cache_dir", "output_dir"])
@pytest.mark.parametrize("parent", ["/proc", "{home}/text.txt"])
def test_a_folder_that_cannot_be_made_is_named(home, tmp_path, capsys, option, parent):
    folder = parent.replace("{home}", str(home)) + "/new"
    before = snapshot(home)
    with pytest.raises(SystemExit) as exit_info:
        main(arguments(home, tmp_path / "out", **{option: folder}))
    assert exit_info.value.code == 2
    assert re.search(rf"^error: .*{re.escape(folder)}", capsys.readouterr().err.splitlines()[-1])
    assert snapshot(home) == before and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "report_to"), [("HF_DATASETS_CACHE", "none"), ("TENSORBOARD_LOGGING_DIR", "tensorboard")]
)
def test_a_folder_of_the_environment_that_cannot_be_made_is_named(
    home, tmp_path, monkeypatch, capsys, name, report_to
):
    if report_to != "none":
        pytest.importorskip(report_to, reason="nothing else would make the folder")
    monkeypatch.setenv(name, "/proc/new")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", os.environ.get("HF_DATASETS_CACHE", tmp_path))
    with pytest.raises(SystemExit) as exit_info:
        main(arguments(home, tmp_path / "out", features_cache_dir=None, report_to=report_to))
    assert exit_info.value.code == 2
    assert "/proc/new" in capsys.readouterr().err.splitlines()[-1] and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("recipe", "text"),
    [
        ("list_rate", "learning_rate is a list"),
        ("no_rate", "no_rate.yaml: learning_rate has no value; give one, or leave it out"),
        ("half_row", "invalid int value: '8.5'"),
    ],
)
def test_a_recipe_is_held_to_the_types_of_the_command_line(home, tmp_path, capsys, recipe, text):
    with pytest.raises(SystemExit) as exit_info:
        main(
            [
                str(home / f"{recipe}.yaml"),
                *without(arguments(home, tmp_path / "out"), "--per_device_train_batch_size"),
            ]
        )
    assert exit_info.value.code == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def without(options, name):
    place = options.index(name)
    return options[:place] + options[place + 2 :]


def test_an_optimizer_is_made_before_the_run_begins(home, tmp_path, monkeypatch):
    settings = {"lr": 5e-4, "momentum_of_inertia": 1}
    monkeypatch.setattr(Trainer, "get_optimizer_cls_and_kwargs", lambda args: (torch.optim.AdamW, settings))
    with pytest.raises(InputError, match=r"--optim adamw_torch_fused: .* argument 'momentum_of_inertia'"):
        parsed(home, tmp_path)


def test_a_run_is_not_resumed_into_another_ones_folder(home, finished, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(finished, other)
    before = snapshot(other)
    with pytest.raises(InputError, match="is not of the run in --output_dir"):
        run(arguments(home, other, resume_from_checkpoint=finished / "checkpoint-2"))
    assert snapshot(other) == before


def test_a_checkpoint_of_another_shape_is_not_resumed(home, finished, tmp_path):
    wider = tmp_path / "wider.json"
    wider.write_text(json.dumps(SIZES | {"intermediate_size": 99}))
    with pytest.raises(InputError, match=r"its intermediate_size is .*, this run's is 99"):
        run(arguments(home, tmp_path / "out", config=wider, resume_from_checkpoint=finished / "checkpoint-2"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "value"), [("hidden_act", "relu"), ("layer_norm_eps", 0.1), ("share_encoder", False), ("pad_token_id", 4)]
)
def test_a_checkpoint_of_another_model_of_its_shape_is_not_resumed(home, tmp_path, name, value):
    one_encoder = {**SIZES, "vocab_size": 280, "pad_token_id": 2, "generator_size": 1}
    SpanElectraForPreTraining(SpanElectraConfig(**one_encoder)).save_pretrained(tmp_path)
    check_shape(tmp_path, SpanElectraConfig(**one_encoder))
    with pytest.raises(InputError, match=rf"its {name} is \S+, this run's is {value}; resume with the configuration"):
        check_shape(tmp_path, SpanElectraConfig(**one_encoder | {name: value}))


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("mask_ratio", 0.4, r"had mask_ratio 0\.15, this one 0\.4: it would mask in another way"),
        ("max_span_words", 1, r"had max_span_words 10, this one 1: it would mask"),
        ("whole_words", False, r"had whole_words True, this one False: it would mask"),
    ],
)
def test_a_run_is_not_resumed_with_other_masks(home, finished, option, value, text):
    before = snapshot(finished)
    with pytest.raises(InputError, match=text):
        run(arguments(home, finished, resume_from_checkpoint="true", **{option: value}))
    assert snapshot(finished) == before


def test_a_run_of_a_version_that_masked_otherwise_is_not_resumed(home, finished, monkeypatch):
    before = snapshot(finished)
    monkeypatch.setattr("span_electra.training.resuming.MASKING_VERSION", 99)
    with pytest.raises(InputError, match=r"a version of this package that masks in another way, or"):
        run(arguments(home, finished, resume_from_checkpoint="true"))
    assert snapshot(finished) == before


def test_a_run_is_not_resumed_with_other_rows(home, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "out")
    before = snapshot(tmp_path / "out")
    with pytest.raises(InputError, match="some rows would come twice and others not at all"):
        run(arguments(home, tmp_path / "out", resume_from_checkpoint="true", max_train_samples=20))
    assert snapshot(tmp_path / "out") == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_a_signal_ended_has_the_status_of_such_a_process(monkeypatch, number):
    def interrupted(arguments):
        raise InterruptedRun("stopped", number)

    monkeypatch.setattr("span_electra.run_pretraining.run", interrupted)
    with pytest.raises(SystemExit) as exit_info:
        main([])
    assert exit_info.value.code == 128 + number


def test_the_collators_mask_as_the_options_say(home, tmp_path):
    model_arguments, data, training = parsed(home, tmp_path, whole_words=False, max_span_words=1)
    tokenizer = build_tokenizer(model_arguments)
    model = build_model(model_arguments, data, tokenizer)
    data.mask_ratio = 0.3
    rows = datasets.Dataset.from_dict({"input_ids": [[0, *range(10, 40), 1]]})
    trainer = build_trainer(model, tokenizer, rows, rows, data, training)
    for collator in (trainer.data_collator, trainer.eval_data_collator.collator):
        labels = collator([rows[0]])["labels"][0]
        masked = (labels != -100).nonzero().flatten()
        assert len(masked) == 9 and masked.diff().min() > 1
        assert not collator.opens.any()


def test_no_document_however_short_is_masked_beyond_what_there_is_room_for(home, tmp_path):
    _, data, _ = parsed(home, tmp_path, pack_documents=True)
    data.mask_ratio, data.max_seq_length = 0.15, 90
    collator = DataCollatorForSpanMasking(AutoTokenizer.from_pretrained(home / "tokenizer"))
    for words in range(1, 28):
        document = [0, *range(10, 10 + words), 1]
        row = document * (data.max_seq_length // len(document))
        masked = (collator([{"input_ids": row}])["labels"] != -100).sum()
        assert masked <= largest_masked_share(data.mask_ratio, data.max_seq_length) * data.max_seq_length


def test_one_process_with_several_gpus_is_refused(home, tmp_path, monkeypatch):
    monkeypatch.setattr(PretrainingArguments, "n_gpu", 2)
    with pytest.raises(InputError, match=r"sees 2 GPUs, .* --num_processes 2, or .* CUDA_VISIBLE_DEVICES=0"):
        parsed(home, tmp_path)


def test_batches_are_padded_to_no_more_than_the_features_hold(home, tmp_path):
    _, data, _ = parsed(home, tmp_path, train_file=home / "features", max_seq_length=64)
    resolve_rows(data, SpanElectraConfig(max_position_embeddings=64))
    assert data.max_seq_length == 32


def test_a_run_killed_before_its_first_checkpoint_begins_anew_either_way(home, tmp_path, caplog):
    for resume in (None, "true"):
        folder = tmp_path / f"out-{resume}"
        (folder / "runs").mkdir(parents=True)
        (folder / "arguments.json").write_text("{}")
        with caplog.at_level("WARNING"):
            assert check_run_folder(str(folder), resume, False) is None
    assert "out-true holds no checkpoint yet" in caplog.text
    assert check_run_folder(str(tmp_path / "new"), "true", False) is None


def test_a_folder_in_which_another_run_writes_is_left_alone(home, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("span_electra.training.output_dir.LOCK_SECONDS", 0.1)
    output = tmp_path / "out"
    output.mkdir()
    command = arguments(home, output, max_steps=1)
    with (output / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SystemExit, match="2"):
            main(command)
        assert "out: another run is writing there; wait for it, stop it, or give another" in capsys.readouterr().err
        assert [path.name for path in output.iterdir()] == [LOCK]
    main(command)
    assert (output / "model.safetensors").is_file()


@pytest.mark.parametrize("resume", ["true", None])
def test_what_another_run_wrote_since_the_folder_was_looked_at_is_kept(home, tmp_path, monkeypatch, capsys, resume):
    output = tmp_path / "out"
    command = arguments(home, output, resume_from_checkpoint=resume)

    def outrun(*args):  # while this run makes its rows, another begins and ends
        monkeypatch.undo()
        main(command)
        return build_rows(*args)

    monkeypatch.setattr("span_electra.run_pretraining.build_rows", outrun)
    with pytest.raises(SystemExit, match="2"):
        main(command)
    assert "another run has written there since this one began; give the same command again" in capsys.readouterr().err
    assert (output / "model.safetensors").is_file() and damage(output / "checkpoint-4") is None


def test_a_folder_that_cannot_be_written_to_is_named(home, tmp_path, monkeypatch, capsys):
    def read_only(lock):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), lock.lock_file)

    monkeypatch.setattr("filelock.FileLock.acquire", read_only)
    with pytest.raises(SystemExit, match="2"):
        main(arguments(home, tmp_path / "out", train_file=home / "features"))
    assert re.search(r"error: --output_dir .*out: cannot be written to \(.*Read-only", capsys.readouterr().err)


def test_a_file_system_without_locks_is_used_all_the_same(home, tmp_path, monkeypatch, caplog):
    def without(lock):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("filelock.FileLock.acquire", without)
    main(arguments(home, tmp_path / "out", train_file=home / "features", max_steps=1))
    assert "its file system has no locks" in caplog.text


@pytest.mark.slow
def test_links_in_a_replaced_folder_are_removed_and_what_they_point_to_is_not(home, tmp_path):
    output = tmp_path / "out"
    main(arguments(home, output))
    (output / "checkpoint-4").rename(tmp_path / "checkpoint-4")
    (output / "checkpoint-4").symlink_to(tmp_path / "checkpoint-4")
    assert check_run_folder(str(output), "true", False) == output / "checkpoint-4"  # on another disk, say
    main([*arguments(home, output, max_steps=1), "--overwrite_output_dir"])
    assert not (output / "checkpoint-4").exists() and damage(tmp_path / "checkpoint-4") is None


def test_every_process_shows_its_own_error(monkeypatch, capsys):
    for rank, text in (("0", "error: no text"), ("3", "error on process 3: no text")):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit):
            monkeypatch.setattr("span_electra.run_pretraining.run", refused)
            main([])
        assert capsys.readouterr().err.strip() == text


def refused(arguments):
    raise InputError("no text")


def test_another_objective_does_not_resume(home, finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "out")
    before = (tmp_path / "out" / "arguments.json").read_bytes()
    with pytest.raises(SystemExit):
        main(arguments(home, tmp_path / "out", resume_from_checkpoint="true", objective="generator", max_steps=6))
    assert "its objective is joint, this run's is generator" in capsys.readouterr().err
    assert (tmp_path / "out" / "arguments.json").read_bytes() == before


def test_a_recipe_may_ask_to_resume(home, finished, tmp_path):
    output_dir = tmp_path / "out"
    shutil.copytree(finished, output_dir)
    recipe = tmp_path / "resume.yaml"
    recipe.write_text("resume_from_checkpoint: true")
    main([str(recipe), *arguments(home, output_dir)])
    assert (output_dir / "model.safetensors").is_file()


def test_the_source_of_a_run_is_not_overwritten(home, finished):
    with pytest.raises(InputError, match="is inside --output_dir, which --overwrite_output_dir would empty"):
        run(arguments(home, finished, config=None, model_name_or_path=finished, overwrite_output_dir=True))


def test_features_are_left_as_they_are(home, tmp_path):
    before = snapshot(home / "features")
    main(arguments(home, tmp_path / "out", train_file=home / "features", max_steps=1))
    assert snapshot(home / "features") == before


def test_labelled_texts_are_looked_at_when_the_model_is_evaluated(home, tmp_path):
    main(arguments(home, tmp_path / "out", probe_file=home / "two_classes.jsonl", max_steps=2))
    history = json.loads((tmp_path / "out" / "history.json").read_text())["history"]
    (accuracy, *_) = [entry["eval_probe_two_classes_accuracy"] for entry in history if "eval_loss" in entry]
    assert 0 <= accuracy <= 1
    assert "| probe_two_classes_accuracy |" in (tmp_path / "out" / "README.md").read_text()
    assert json.loads((tmp_path / "out" / "tokenizer.json").read_text())["truncation"] is None


@pytest.mark.slow
def test_short_documents_share_rows(home, tmp_path):
    lines = {"documents": "line", "max_steps": 2, "features_cache_dir": tmp_path / "cache"}
    main(arguments(home, tmp_path / "alone", **lines))
    main(arguments(home, tmp_path / "shared", pack_documents=True, **lines))
    counts = [json.loads(path.read_text())["counts"] for path in (tmp_path / "cache").glob("*/features.json")]
    packed, alone = sorted(count["rows"] for count in counts)
    assert len(counts) == 2 and packed < alone
    assert len({count["tokens"] for count in counts}) == 1
    assert "| `pack_documents` | True |" in (tmp_path / "shared" / "README.md").read_text()


def test_features_say_whether_documents_share_their_rows(home, tmp_path):
    settings = {"max_seq_length": 32, "pack_documents": True}
    create_features([home / "text.txt"], str(home / "tokenizer"), tmp_path / "rows", **settings, documents="file")
    main(arguments(home, tmp_path / "out", train_file=tmp_path / "rows", max_steps=1, max_seq_length=None))
    assert "| `pack_documents` | True |" in (tmp_path / "out" / "README.md").read_text()


def test_rows_that_documents_share_may_be_evaluated_on_rows_of_one_each(home, tmp_path):
    settings = {"max_seq_length": 32, "pack_documents": True}
    create_features([home / "text.txt"], str(home / "tokenizer"), tmp_path / "rows", **settings, documents="file")
    files = {"train_file": tmp_path / "rows", "validation_file": home / "features"}
    _, data, _ = parsed(home, tmp_path, **files)
    resolve_rows(data, SpanElectraConfig(**SIZES, attn_implementation="sdpa"))
    assert data.pack_documents


def test_a_model_with_another_models_tokenizer_is_warned_of(home, finished, caplog):
    for name, is_foreign in (("tokenizer", False), ("other_tokenizer", True)):
        caplog.clear()
        build_tokenizer(ModelArguments(model_name_or_path=str(finished), tokenizer=str(home / name)))
        assert ("its embeddings stand for other words" in caplog.text) == is_foreign
        build_tokenizer(ModelArguments(model_name_or_path=str(home / "trained"), tokenizer=str(home / name)))
        assert caplog.text.count("other words") == is_foreign


def test_the_card_knows_what_ended_the_features_documents(home, tmp_path):
    changes = {"train_file": home / "features", "documents": None}
    _, data, _ = parsed(home, tmp_path, **changes)
    resolve_rows(data, SpanElectraConfig(**SIZES))
    assert data.documents == "file"


def test_evaluation_keeps_its_last_rows(home, tmp_path):
    changes = {"dataloader_drop_last": True, "per_device_eval_batch_size": 4000}
    run(arguments(home, tmp_path / "out", **changes))
    assert '"eval_loss"' in (tmp_path / "out" / "history.json").read_text()


def test_a_row_is_left_to_train_on(home, tmp_path):
    changes = {"train_file": home / "features", "validation_split_percentage": 99.999}
    _, data, training = parsed(home, tmp_path, **changes)
    tokenizer = AutoTokenizer.from_pretrained(home / "tokenizer")
    resolve_rows(data, SpanElectraConfig(**SIZES))
    train_rows, eval_rows = build_rows(data, tokenizer, training)
    assert len(train_rows) == 1 and len(eval_rows) > 1


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["loss", "generator_perplexity"])
def test_figures_are_those_of_the_model_that_is_kept(home, tmp_path, metric):
    choice = {"load_best_model_at_end": True, "metric_for_best_model": metric}
    growing = {"learning_rate": 1.0, "warmup_steps": 4}  # so that the model is worse at the end
    run(arguments(home, tmp_path / "out", **choice, **growing))
    history = json.loads((tmp_path / "out" / "history.json").read_text())["history"]
    first, last = [entry for entry in history if "eval_loss" in entry]
    assert (first["step"], last["step"]) == (2, 4) and first[f"eval_{metric}"] < last[f"eval_{metric}"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Trained for 2 steps" in card and f"| loss | {first['eval_loss']:.4f} |" in card
    assert "| `rows_per_update` | 4 |" in card and "num_train_epochs" not in card
    kept = SpanElectraForPreTraining.from_pretrained(tmp_path / "out").state_dict()
    best = SpanElectraForPreTraining.from_pretrained(tmp_path / "out" / "checkpoint-2").state_dict()
    assert all(torch.equal(weight, kept[name]) for name, weight in best.items())


def test_the_history_is_json_without_nan(finished):
    text = (finished / "history.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def assert_matches(pattern, text):
    assert re.search(pattern, text), f"{pattern!r} is not in {text!r}"


@pytest.fixture(scope="module")
def finished(home, tmp_path_factory):
    output_dir = tmp_path_factory.mktemp("finished") / "out"
    main(arguments(home, output_dir))
    return output_dir


def test_a_run_leaves_a_whole_model_and_its_report(finished):
    names = {path.name for path in finished.iterdir()}
    whole = {"config.json", "model.safetensors", "tokenizer.json", "modeling_span_electra.py"}
    assert names >= whole | {
        "history.json",
        "curves.png",
        "samples.html",
        "README.md",
        "arguments.json",
        "checkpoint-2",
        "checkpoint-4",
    }
    assert {path.name for path in (finished / "checkpoint-2").iterdir()} >= whole | {"trainer_state.json"}
    assert len(AutoTokenizer.from_pretrained(finished)) == 280
    assert AutoModel.from_pretrained(finished).config.vocab_size == 280
    assert SpanElectraForMaskedLM.from_pretrained(finished).config.pad_token_id == 2
    history = json.loads((finished / "history.json").read_text())["history"]
    assert [entry["step"] for entry in history if "loss" in entry] == [1, 2, 3, 4]
    assert [entry["step"] for entry in history if "eval_discriminator_auc" in entry] == [2, 4]


@pytest.mark.slow
def test_an_interrupted_run_resumes_to_the_same_weights_and_history(home, finished, tmp_path):
    output_dir = tmp_path / "out"
    main(arguments(home, output_dir, eval_on_start=True))
    for name in ("model.safetensors", "history.json"):
        (output_dir / name).unlink()
    (output_dir / "checkpoint-4" / "trainer_state.json").unlink()  # a checkpoint that is not whole
    main(arguments(home, output_dir, eval_on_start=True, resume_from_checkpoint="true"))
    expected = SpanElectraForPreTraining.from_pretrained(finished).state_dict()
    actual = SpanElectraForPreTraining.from_pretrained(output_dir).state_dict()
    assert all(torch.equal(actual[name], value) for name, value in expected.items())
    losses = [
        [entry["loss"] for entry in json.loads((folder / "history.json").read_text())["history"] if "loss" in entry]
        for folder in (finished, output_dir)
    ]
    assert losses[0] == losses[1]
    history = json.loads((output_dir / "history.json").read_text())["history"]
    assert [entry["step"] for entry in history if "eval_loss" in entry] == [0, 2, 4]


@pytest.mark.slow
def test_overwriting_replaces_the_earlier_run_and_nothing_else(home, tmp_path):
    output_dir = tmp_path / "out"
    main(arguments(home, output_dir))
    (output_dir / "notes.txt").write_text("mine")
    main(arguments(home, output_dir, max_steps=1, overwrite_output_dir=True))
    assert (output_dir / "notes.txt").read_text() == "mine"
    assert [path.name for path in output_dir.glob("checkpoint-*")] == ["checkpoint-1"]


def test_training_goes_on_from_a_checkpoint_with_prepared_features_and_its_tokenizer(home, finished, tmp_path):
    changes = {
        "config": None,
        "tokenizer": None,
        "model_name_or_path": finished,
        "max_seq_length": None,
        "max_steps": 1,
    }
    files = {"train_file": home / "features", "validation_file": home / "features"}
    main(arguments(home, tmp_path / "out", **changes, **files, max_train_samples=8, max_eval_samples=3))
    settings = json.loads((tmp_path / "out" / "arguments.json").read_text())
    assert settings["max_seq_length"] == 32 and settings["mask_ratio"] == 0.15


# --- arguments and models ----------------------------------------------------------------------------------------


def parsed(home, tmp_path, **changes):
    return parse_arguments(arguments(home, tmp_path / "out", **changes))


def test_the_defaults_are_electras(tmp_path):
    args = PretrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    actual = (args.adam_beta1, args.adam_beta2, args.adam_epsilon, args.weight_decay, args.max_grad_norm)
    assert actual == (0.9, 0.999, 1e-6, 0.01, 1.0)
    assert args.lr_scheduler_type == "linear" and args.learning_rate == 5e-4


@pytest.mark.parametrize(
    "metric, mode", [(None, "min"), ("generator_perplexity", "min"), ("eval_fixed_discriminator_auc", "max")]
)
@pytest.mark.parametrize("schedule", ["reduce_lr_on_plateau", "greedy"])
def test_a_schedule_by_evaluations_knows_what_is_better(tmp_path, metric, mode, schedule):
    given = {"lr_scheduler_type": schedule, "lr_scheduler_kwargs": '{"patience": 3}', "metric_for_best_model": metric}
    args = PretrainingArguments(output_dir=str(tmp_path), use_cpu=True, **given)
    assert args.lr_scheduler_kwargs == {"mode": mode, "patience": 3}


def test_to_keep_the_best_needs_no_metric(tmp_path):
    args = PretrainingArguments(output_dir=str(tmp_path), use_cpu=True, save_strategy="best")
    assert (args.metric_for_best_model, args.greater_is_better) == ("loss", False)


@pytest.mark.parametrize(
    "warmup_steps, total, expected", [(0.1, 500, 50), (0.1, 10**6, 10_000), (300, 500, 300), (20_000, 10**6, 20_000)]
)
def test_warmup_is_a_tenth_of_a_short_run_and_10000_steps_of_a_long_one(tmp_path, warmup_steps, total, expected):
    args = PretrainingArguments(output_dir=str(tmp_path), use_cpu=True, warmup_steps=warmup_steps)
    assert args.get_warmup_steps(total) == expected


@pytest.mark.parametrize("option", ["--model_name_or_path", "--model-name-or-path"])
@pytest.mark.parametrize("joint", [" ", "="])
def test_a_model_to_go_on_from_takes_the_place_of_a_recipes_configuration(tmp_path, option, joint):
    (tmp_path / "recipe.yaml").write_text("config: small\ntrain_file: a.txt\noutput_dir: out\nlearning_rate: 1e-3\n")
    command = [
        str(tmp_path / "recipe.yaml"),
        *f"{option}{joint}google/electra-small-discriminator".split(),
        "--use_cpu",
    ]
    model, _, training = parse_arguments(command)
    assert (model.config, model.model_name_or_path) == (None, "google/electra-small-discriminator")
    assert training.learning_rate == 1e-3
    (tmp_path / "recipe.yaml").write_text("model_name_or_path: my_model\ntrain_file: a.txt\noutput_dir: out\n")
    model, _, _ = parse_arguments([str(tmp_path / "recipe.yaml"), "--config", "small", "--use_cpu"])
    assert (model.config, model.model_name_or_path) == ("small", None)


def test_features_of_shorter_rows_than_asked_for_are_named(home, tmp_path, caplog):
    _, data, _ = parsed(home, tmp_path, train_file=home / "features", max_seq_length=48)
    resolve_rows(data, SpanElectraConfig(**SIZES))
    assert data.max_seq_length == 32 and "--max_seq_length is 48" in caplog.text and "32 tokens at most" in caplog.text


@pytest.mark.parametrize("train", ["features", "longer"])
def test_the_longest_prepared_rows_decide(home, tmp_path, train):
    settings = json.loads((home / "features" / METADATA).read_text())
    settings["settings"]["max_seq_length"] = 48
    (tmp_path / "longer").mkdir()
    (tmp_path / "longer" / METADATA).write_text(json.dumps(settings))
    files = {"features": home / "features", "longer": tmp_path / "longer"}
    paths = {"train_file": files.pop(train), "validation_file": next(iter(files.values()))}
    _, data, _ = parsed(home, tmp_path, **paths, max_seq_length=None)
    resolve_rows(data, SpanElectraConfig(**SIZES))
    assert data.max_seq_length == 48


def test_a_file_by_the_name_of_the_features_own_is_looked_into(home, tmp_path):
    (tmp_path / METADATA).write_text("{}")
    _, data, _ = parsed(home, tmp_path / "out", train_file=tmp_path)
    with pytest.raises(InputError, match="not a folder of features"):
        resolve_rows(data, SpanElectraConfig(**SIZES))


def test_options_win_over_the_recipe(tmp_path):
    recipe = "config: tiny\ntrain_file: a.txt\noutput_dir: out\nlearning_rate: 5e-4\nmask_ratio: 0.2\nbf16: false\n"
    (tmp_path / "recipe.yaml").write_text(recipe)
    model, data, training = parse_arguments([str(tmp_path / "recipe.yaml"), "--mask_ratio", "0.3", "--use_cpu"])
    assert (model.config, data.train_file, data.mask_ratio) == ("tiny", ["a.txt"], 0.3)
    assert training.learning_rate == 5e-4 and training.output_dir == "out"


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("language: no", ["no"]),
        ("language: [no, en]", ["no", "en"]),
        ("license: no", "no"),
        ("eval_strategy: no", "no"),
        ("tokenizer: 0123", "0123"),
        ("run_name: 2026-01-01", "2026-01-01"),
        ("whole_words: no", False),
        ("whole_words: off", False),
        ("learning_rate: 5e-4", 5e-4),
        ("max_seq_length: ~", None),
        ('config_overrides: {use_sbgo: no, hidden_act: "0"}', '{"use_sbgo": false, "hidden_act": "0"}'),
        (
            "config_overrides: {layer_norm_eps: 1e-7, rtd_weight: +2E1}",
            '{"layer_norm_eps": 1e-07, "rtd_weight": 20.0}',
        ),
        ("lr_scheduler_kwargs: {min_lr: 1e-5}\nlr_scheduler_type: cosine_with_min_lr", {"min_lr": 1e-5}),
        ("config_overrides: {hidden_act: e5, max_span_length: 7}", '{"hidden_act": "e5", "max_span_length": 7}'),
    ],
)
def test_a_recipe_says_what_the_command_line_would(tmp_path, line, value):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"config: tiny\ntrain_file: a.txt\noutput_dir: out\nuse_cpu: true\n{line}\n")
    name = line.split(":")[0]
    (actual,) = (vars(group)[name] for group in parse_arguments([str(recipe)]) if name in vars(group))
    assert actual == value


@pytest.mark.parametrize(
    "content, text",
    [
        ("learnin_rate: 1", "learnin_rate is not an option: did you mean learning_rate"),
        ("- a", "holds a list"),
        ('bf16: "["', "Truthy value expected: got ["),
        ("[a]: 1", "not valid YAML"),
        ("seed: 1\nconfig: tiny\nseed: 2", "recipe.yaml: not valid YAML (seed is given twice)"),
        ("config_overrides: {rtd_weight: 1, rtd_weight: 2}", "(rtd_weight is given twice)"),
    ],
)
def test_a_recipe_is_checked(tmp_path, capsys, content, text):
    (tmp_path / "recipe.yaml").write_text(content)
    with pytest.raises(SystemExit):
        main([str(tmp_path / "recipe.yaml")])
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("name", ["tiny", "small", "base", "tutorial"])
def test_shipped_configurations_are_read_by_name(home, tmp_path, name):
    tokenizer = AutoTokenizer.from_pretrained(home / "tokenizer")
    _, data, _ = parsed(home, tmp_path, config=name, max_seq_length=None)
    model_arguments = ModelArguments(config=name)
    config = new_model(model_arguments, settle_config(name, read_config(name), {}, data, tokenizer), tokenizer).config
    assert config.vocab_size == (10_000 if name == "tutorial" else 280)
    assert (data.mask_ratio, data.max_seq_length) == ((0.2, 512) if name == "tutorial" else (None, None))
    assert config.generator_hidden_size == {"tiny": 64, "small": 64, "base": 256, "tutorial": 128}[name]
    assert config.generator_num_hidden_layers == config.num_hidden_layers


@pytest.mark.parametrize(
    ("file", "overrides", "expected"),
    [
        ("tutorial", {"hidden_size": 256, "use_sbpo": False}, {"hidden_size": 256, "use_sbpo": False}),
        ("tutorial", {"max_span_length": 5}, {"max_span_length": 5, "generator_hidden_size": 128}),
        ("tutorial", {"disc_hidden_size": 256}, {"hidden_size": 256}),
        ("base", {"generator_size": 1}, {"generator_hidden_size": 768, "generator_intermediate_size": 3072}),
        ("base", {"hidden_size": 384}, {"hidden_size": 384, "generator_hidden_size": 256}),
    ],
)
def test_overrides_hold_whatever_the_file_calls_the_setting(home, tmp_path, file, overrides, expected):
    tokenizer = AutoTokenizer.from_pretrained(home / "tokenizer")
    _, data, _ = parsed(home, tmp_path, config=file, max_seq_length=None)
    config = SpanElectraConfig(**settle_config(file, read_config(file), overrides, data, tokenizer))
    assert {name: getattr(config, name) for name in expected} == expected
    assert data.max_seq_length == (512 if file == "tutorial" else None)


def test_one_encoder_is_not_sharded(home, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(InputError, match=r"FSDP cannot shard .* share one encoder: use DDP"):
        run(arguments(home, tmp_path / "out", config="tiny", config_overrides='{"generator_size": 1}'))


@pytest.mark.parametrize("version, kind", [("2", None), ("2", "SHARDED_STATE_DICT"), ("1", "LOCAL_STATE_DICT")])
def test_a_model_that_could_not_be_saved_is_not_sharded(home, tmp_path, monkeypatch, version, kind):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", version)
    if kind is not None:
        monkeypatch.setenv("FSDP_STATE_DICT_TYPE", kind)
    with pytest.raises(InputError, match=rf"state_dict_type is {kind or 'SHARDED'}.*FULL_STATE_DICT"):
        parsed(home, tmp_path)
    monkeypatch.setenv("FSDP_STATE_DICT_TYPE", "FULL_STATE_DICT")
    parsed(home, tmp_path)


def test_a_run_is_resumed_sharded_as_it_began_and_where_every_process_finds_it(home, tmp_path, monkeypatch):
    checkpoint = tmp_path / "checkpoint-2"
    checkpoint.mkdir()
    check_sharding(checkpoint, is_sharded=False)
    with pytest.raises(InputError, match="was written without FSDP, and this run is with it"):
        check_sharding(checkpoint, is_sharded=True)
    (checkpoint / "pytorch_model_fsdp.bin").touch()
    with pytest.raises(InputError, match="was written with FSDP, and this run is without it"):
        check_sharding(checkpoint, is_sharded=False)
    with pytest.raises(InputError, match="checkpoint-2: holds no model"):
        check_shape(checkpoint, SpanElectraConfig(**SIZES))
    check_same_checkpoint(checkpoint)
    monkeypatch.setattr(resuming, "gather_object", lambda own: [*own, None])  # another machine's
    with pytest.raises(InputError, match=r"different checkpoints \(checkpoint-2, None\); give an --output_dir"):
        check_same_checkpoint(checkpoint)
    check_same_checkpoint(None)


def test_a_second_stage_takes_its_generators_tokenizer(home, tmp_path):
    generator = str(tmp_path / "generator")
    ElectraForMaskedLM(ElectraConfig(**SIZES, vocab_size=280)).save_pretrained(generator)
    AutoTokenizer.from_pretrained(home / "tokenizer").save_pretrained(generator)
    asked = ModelArguments("tiny", generator_name_or_path=generator, objective="discriminator")
    asked.tokenizer = str(home / "other_tokenizer")
    with pytest.raises(
        InputError, match=r"was trained with other tokens than .*other_tokenizer.* --tokenizer .*genera"
    ):
        build_tokenizer(asked)
    asked.tokenizer = str(home / "tokenizer")
    assert build_tokenizer(asked).get_vocab() == AutoTokenizer.from_pretrained(generator).get_vocab()


def test_flex_attention_is_not_asked_for_dropout(home, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(home / "tokenizer")
    _, data, _ = parsed(home, tmp_path)
    model_arguments = ModelArguments(config=str(home / "tiny.json"), attn_implementation="flex_attention")
    with pytest.raises(InputError, match=r"flex_attention: .*dropout, and attention_probs_dropout_prob is 0\.1"):
        build_model(model_arguments, data, tokenizer)
    model_arguments.config_overrides = '{"attention_probs_dropout_prob": 0}'
    assert build_model(model_arguments, data, tokenizer).config._attn_implementation == "flex_attention"


def test_weights_with_another_padding_id_learn_all_tokens_but_the_padding(home, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(home / "tokenizer")
    sizes = {name: value for name, value in SIZES.items() if name != "embedding_size"}
    BertModel(BertConfig(**sizes, vocab_size=280, pad_token_id=0)).save_pretrained(tmp_path / "bert")
    changes = {"config": None, "model_name_or_path": tmp_path / "bert"}
    model_arguments, data, _ = parsed(home, tmp_path, **changes)
    model = build_model(model_arguments, data, tokenizer)
    embeddings = (model.get_input_embeddings(), model.generator.get_input_embeddings())
    assert [table.padding_idx for table in embeddings] == [tokenizer.pad_token_id] * 2


def test_the_card_says_what_was_trained_and_in_which_precision(home, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")  # as `accelerate launch` does with configs/accelerate
    main(arguments(home, tmp_path / "out", objective="generator", max_steps=1))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| `objective` | generator |" in card and "| `bf16` | True |" in card
    assert "pipeline_tag: fill-mask" in card and "is not trained yet" in card and "AutoModel.from" not in card


def test_a_recipe_changes_settings_of_the_configuration(home, tmp_path):
    (tmp_path / "recipe.yaml").write_text("config: tiny\nconfig_overrides: {use_sbgo: false, rtd_weight: 7}\n")
    command = [str(tmp_path / "recipe.yaml"), "--tokenizer", str(home / "tokenizer"), "--train_file", "a.txt"]
    model_arguments, data, _ = parse_arguments([*command, "--output_dir", str(tmp_path / "out"), "--use_cpu"])
    config = build_model(model_arguments, data, AutoTokenizer.from_pretrained(home / "tokenizer")).config
    assert (config.use_sbgo, config.rtd_weight, config.num_hidden_layers) == (False, 7, 2)


@pytest.mark.parametrize("name", ["small", "base", "demo"])
def test_shipped_recipes_hold_only_options_that_exist(name, tmp_path):
    recipe = files("span_electra.configs") / "recipes" / f"{name}.yaml"
    rest = ["--train_file", "a.txt", "--output_dir", str(tmp_path / "out"), "--use_cpu"]
    model, data, training = parse_arguments([str(recipe), *rest])
    assert model.config == {"demo": "tiny"}.get(name, name)
    assert training.max_steps > 0 and data.max_seq_length in (32, 128, 512)


def test_what_an_older_file_says_about_data_gives_way_to_options(home, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(home / "tokenizer")
    model, data, _ = parsed(home, tmp_path, config=home / "old.json", max_seq_length=None, mask_ratio=0.1)
    built = build_model(model, data, tokenizer)
    assert (data.mask_ratio, data.max_seq_length) == (0.1, 48)
    assert built.config.max_position_embeddings == 64  # which the file gives beside the rows' length


def test_a_run_starts_from_stock_electra(home, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(home / "tokenizer")
    torch.manual_seed(0)
    stock = ElectraConfig(**SIZES, vocab_size=280, pad_token_id=2)
    discriminator = ElectraForPreTraining(stock)
    discriminator.save_pretrained(tmp_path / "discriminator")
    ElectraForMaskedLM(ElectraConfig(**SIZES | {"hidden_size": 16}, vocab_size=280)).save_pretrained(
        tmp_path / "generator"
    )
    halves = {"model_name_or_path": tmp_path / "discriminator", "generator_name_or_path": tmp_path / "generator"}
    model, data, _ = parsed(home, tmp_path, config=None, **halves)
    built = build_model(model, data, tokenizer)
    assert built.config.generator_hidden_size == 16
    key = "electra.encoder.layer.0.output.dense.weight"
    assert torch.equal(built.state_dict()[key], discriminator.state_dict()[key])


def test_training_goes_on_in_full_precision_from_half(home, tmp_path):
    SpanElectraForPreTraining.from_pretrained(home / "trained").half().save_pretrained(tmp_path / "half")
    model, data, _ = parsed(home, tmp_path, config=None, model_name_or_path=tmp_path / "half")
    built = build_model(model, data, AutoTokenizer.from_pretrained(home / "tokenizer"))
    assert {parameter.dtype for parameter in built.parameters()} == {torch.float32}


def test_the_saved_tokenizer_fits_the_model(home, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(home / "tokenizer")
    model, data, _ = parsed(home, tmp_path, config_overrides='{"type_vocab_size": 1}')
    built = build_model(model, data, tokenizer)
    assert tokenizer.model_max_length == 64
    assert built(**tokenizer("a word", "word " * 99, truncation=True, return_tensors="pt")).logits.shape == (1, 64)


def test_a_run_starts_from_bert(home, tmp_path):
    torch.manual_seed(0)
    sizes = {name: value for name, value in SIZES.items() if name != "embedding_size"}
    bert = BertModel(BertConfig(**sizes, vocab_size=280))
    bert.save_pretrained(tmp_path / "bert")
    model, data, _ = parsed(home, tmp_path, config=None, model_name_or_path=tmp_path / "bert")
    built = build_model(model, data, AutoTokenizer.from_pretrained(home / "tokenizer"))
    key = "encoder.layer.0.output.dense.weight"
    assert torch.equal(built.discriminator.state_dict()[key], bert.state_dict()[key])


def test_a_generator_is_refused_where_a_discriminator_is_meant(home, tmp_path):
    ElectraForMaskedLM(ElectraConfig(**SIZES, vocab_size=280)).save_pretrained(tmp_path / "generator")
    model, data, _ = parsed(home, tmp_path, config=None, model_name_or_path=tmp_path / "generator")
    with pytest.raises(InputError, match="was saved as ElectraForMaskedLM; give a SpanElectraForPreTraining"):
        build_model(model, data, AutoTokenizer.from_pretrained(home / "tokenizer"))


@pytest.mark.slow
def test_two_stages_train_one_half_each(home, tmp_path):
    run(arguments(home, tmp_path / "first", objective="generator"))
    history = json.loads((tmp_path / "first" / "history.json").read_text())["history"]
    assert any("eval_mlm_loss" in entry for entry in history)
    assert not any(name.endswith(("rtd_loss", "discriminator_auc")) for entry in history for name in entry)
    run(arguments(home, tmp_path / "second", objective="discriminator", generator=tmp_path / "first"))
    first, second = (SpanElectraForMaskedLM.from_pretrained(tmp_path / stage) for stage in ("first", "second"))
    for name, weight in first.generator.state_dict().items():
        assert torch.equal(weight, second.generator.state_dict()[name])
    history = json.loads((tmp_path / "second" / "history.json").read_text())["history"]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert losses[-1] < losses[0]
    assert AutoModel.from_pretrained(tmp_path / "second").config.objective == "discriminator"


def test_a_discriminator_is_trained_against_a_published_generator(home, tmp_path):
    torch.manual_seed(0)
    ElectraForPreTraining(ElectraConfig(**SIZES, vocab_size=280)).save_pretrained(tmp_path / "discriminator")
    generator = ElectraForMaskedLM(ElectraConfig(**SIZES | {"hidden_size": 16}, vocab_size=280))
    generator.save_pretrained(tmp_path / "generator")
    tokenizer = AutoTokenizer.from_pretrained(home / "tokenizer")
    options = {"config": None, "model_name_or_path": tmp_path / "discriminator", "objective": "discriminator"}
    model, data, _ = parsed(home, tmp_path, **options, generator=tmp_path / "generator")
    built = build_model(model, data, tokenizer)
    assert not any(parameter.requires_grad for parameter in built.generator.parameters())
    for name, weight in generator.state_dict().items():
        assert torch.equal(weight, built.generator.state_dict()[name])
    model, data, _ = parsed(home, tmp_path, **options)
    with pytest.raises(InputError, match="has no trained generator"):
        build_model(model, data, tokenizer)


def test_what_weights_leave_open_can_be_changed(home, tmp_path):
    def built(source, overrides, **options):
        options |= {"config": None, "model_name_or_path": source, "config_overrides": json.dumps(overrides)}
        model, data, _ = parsed(home, tmp_path, **options)
        return build_model(model, data, AutoTokenizer.from_pretrained(home / "tokenizer"))

    trained = SpanElectraForPreTraining.from_pretrained(home / "trained")
    again = built(home / "trained", {"rtd_weight": 7, "hidden_dropout_prob": 0.25})
    assert again.config.rtd_weight == 7 and again.electra.embeddings.dropout.p == 0.25
    for name, weight in trained.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])

    sizes = {name: size for name, size in SIZES.items() if name != "embedding_size"}
    BertModel(BertConfig(**sizes, vocab_size=280)).save_pretrained(tmp_path / "bert")
    overrides = {"generator_num_hidden_layers": 2, "embedding_sharing": "disentangled", "use_sbpo": False}
    encoder = built(tmp_path / "bert", overrides)
    assert encoder.config.generator.num_hidden_layers == 2
    assert encoder.config.embedding_sharing == "disentangled" and not hasattr(encoder, "sbpo_head")
    for size in (10**15, 10**20):  # past any memory, and past torch's integers
        with pytest.raises(InputError, match=r"bert: cannot be used"):
            built(tmp_path / "bert", {"max_span_length": size})
    with pytest.raises(InputError, match=r"`hidden_size` would contradict the weights of .*bert"):
        built(tmp_path / "bert", {"hidden_size": 48})

    ElectraForPreTraining(ElectraConfig(**SIZES, vocab_size=280)).save_pretrained(tmp_path / "discriminator")
    ElectraForMaskedLM(ElectraConfig(**SIZES, vocab_size=280)).save_pretrained(tmp_path / "generator")
    options = {"generator": tmp_path / "generator"}
    assert not built(tmp_path / "discriminator", {"use_sbgo": False}, **options).config.use_sbgo
    with pytest.raises(InputError, match=r"`generator_size` would contradict the weights of .*discriminator"):
        built(tmp_path / "discriminator", {"generator_size": 0.5}, **options)


def test_a_new_discriminator_has_its_generators_vocabulary(home, tmp_path):
    wide = ElectraForMaskedLM(ElectraConfig(**SIZES, vocab_size=288))  # padded to a multiple of 32
    wide.save_pretrained(tmp_path / "generator")
    options = {"objective": "discriminator", "generator": tmp_path / "generator"}
    model, data, _ = parsed(home, tmp_path, **options)
    assert build_model(model, data, AutoTokenizer.from_pretrained(home / "tokenizer")).config.vocab_size == 288


def test_another_kind_of_model_is_refused(home, tmp_path):
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "gpt2"}')
    model, data, _ = parsed(home, tmp_path, config=None, model_name_or_path=tmp_path / "bert")
    with pytest.raises(InputError, match=r"gpt2 has no masked language model .* ModernBERT"):
        build_model(model, data, AutoTokenizer.from_pretrained(home / "tokenizer"))


def test_the_folder_of_a_run_that_was_stopped_is_no_model_and_its_newest_checkpoint_is_named(home, tmp_path):
    for step in (8, 12):
        (tmp_path / "run" / f"checkpoint-{step}").mkdir(parents=True)
    model, data, _ = parsed(home, tmp_path, config=None, model_name_or_path=tmp_path / "run")
    with pytest.raises(InputError, match=r"run: has no config\.json; a run that was stopped .*: give .*checkpoint-12"):
        build_model(model, data, AutoTokenizer.from_pretrained(home / "tokenizer"))
    with pytest.raises(InputError, match=r"run: has no config\.json; .*: give .*checkpoint-12"):
        export(tmp_path / "run", tmp_path / "stock")
