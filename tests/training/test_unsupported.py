"""Options under which a checkpoint would not hold what is trained."""

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


def test_deepspeed_is_refused_with_its_reason_from_python_too(tokenizer, tmp_path, monkeypatch):
    args = make_trainer(tokenizer, tmp_path).args
    with monkeypatch.context() as patch, pytest.raises(InputError, match=r"--deepspeed: .*--fsdp"):
        patch.setenv("ACCELERATE_USE_DEEPSPEED", "true")  # as `accelerate launch` does
        SpanElectraTrainer(model=tiny_model(), args=args, data_collator=DataCollatorForSpanMasking(tokenizer))
    args.deepspeed = "zero1.json"
    with pytest.raises(InputError, match=r"--deepspeed: .*--fsdp"):
        check_weights_are_kept(args)
