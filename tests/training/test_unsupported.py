"""Options under which a checkpoint would not hold what is trained."""

from types import SimpleNamespace

import pytest
from trainer_examples import make_trainer, tiny_model
from transformers import TrainingArguments

from span_electra import DataCollatorForSpanMasking
from span_electra.common.errors import InputError
from span_electra.pretraining.trainer import SpanElectraTrainer
from span_electra.training.unsupported import check_weights_are_kept


def arguments(tmp_path, **options):
    return TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", **options)


@pytest.mark.parametrize("optim", ["lomo", "adalomo", "galore_adamw_layerwise", "schedule_free_adamw"])
def test_optimizers_that_step_past_the_checks_are_refused(tmp_path, optim):
    with pytest.raises(InputError, match=rf"--optim is {optim}, which .*adamw_torch_fused"):
        check_weights_are_kept(arguments(tmp_path, optim=optim))


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "galore_adamw"])
def test_others_are_not(tmp_path, optim):
    check_weights_are_kept(arguments(tmp_path, optim=optim))


ZERO_2 = {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "none"}}}


@pytest.mark.parametrize(
    "changes, fp16, message",
    [
        ({"optimizer": {"type": "AdamW"}}, False, "optimizer or scheduler"),
        ({"zero_optimization": {"stage": 3}}, False, r"zero_optimization.stage is 3.*--fsdp"),
        ({"zero_optimization": {"stage": 1, "offload_optimizer": {"device": "cpu"}}}, False, "offload_optimizer"),
        ({}, True, "fp16.*--bf16"),
    ],
)
def test_deepspeed_is_accepted_for_zero_1_and_2_only(tokenizer, tmp_path, changes, fp16, message):
    args = make_trainer(tokenizer, tmp_path).args
    args.deepspeed_plugin, args.fp16 = SimpleNamespace(deepspeed_config=ZERO_2), False
    check_weights_are_kept(args)
    args.deepspeed_plugin, args.fp16 = SimpleNamespace(deepspeed_config=ZERO_2 | changes), fp16
    with pytest.raises(InputError, match=f"DeepSpeed's configuration: {message}"):
        SpanElectraTrainer(model=tiny_model(), args=args, data_collator=DataCollatorForSpanMasking(tokenizer))
