"""The epoch's own masks with the stock Trainer."""

import pytest
import torch
from trainer_examples import rows, tiny_model
from transformers import Trainer, TrainingArguments

from span_electra import DataCollatorForSpanMasking
from span_electra.training.set_epoch import SetEpoch

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


class Recording(Trainer):
    def training_step(self, model, inputs, *args, **kwargs):
        self.batches.append({name: value.clone() for name, value in inputs.items()})
        return super().training_step(model, inputs, *args, **kwargs)


def train(tokenizer, folder, workers=0, persistent=False, kind="sized", resume=None):
    collator = DataCollatorForSpanMasking(tokenizer, seed=0)
    arguments = {"per_device_train_batch_size": 4, "max_steps": 6, "save_steps": 1, "report_to": "none"}
    arguments |= {"remove_unused_columns": False, "use_cpu": True, "disable_tqdm": True}
    arguments |= {"dataloader_num_workers": workers, "dataloader_persistent_workers": persistent}
    data = rows(8) if kind == "sized" else rows(8).to_iterable_dataset(num_shards=max(workers, 1))
    trainer = Recording(
        model=tiny_model(),
        args=TrainingArguments(str(folder), **arguments),
        train_dataset=data,
        data_collator=collator,
        callbacks=[SetEpoch(collator)],
    )
    trainer.batches = []
    trainer.train(resume_from_checkpoint=resume)
    return trainer.batches


def expected(tokenizer, batch, epoch):
    original = torch.where(batch["labels"] != -100, batch["labels"], batch["input_ids"])
    collator = DataCollatorForSpanMasking(tokenizer, seed=0)
    collator.set_epoch(epoch)
    return collator([{"input_ids": row} for row in original.tolist()])


@pytest.mark.parametrize(
    ("workers", "persistent", "kind"),
    [(0, False, "sized"), (2, False, "sized"), (2, True, "sized"), (0, False, "any")],
)
def test_every_epoch_has_its_own_masks(tokenizer, tmp_path, workers, persistent, kind):
    batches = train(tokenizer, tmp_path, workers, persistent, kind)
    assert len(batches) == 6
    for epoch, batch in zip([0, 0, 1, 1, 2, 2], batches, strict=True):
        assert torch.equal(batch["labels"], expected(tokenizer, batch, epoch)["labels"])
    assert not torch.equal(batches[0]["labels"], expected(tokenizer, batches[0], epoch=1)["labels"])


@pytest.mark.parametrize("step", [2, 3])  # at the end of an epoch, and inside one
def test_a_resumed_run_has_the_masks_of_the_uninterrupted_one(tokenizer, tmp_path, step):
    whole = train(tokenizer, tmp_path)
    resumed = train(tokenizer, tmp_path, resume=str(tmp_path / f"checkpoint-{step}"))
    assert len(resumed) == 6 - step
    for batch, same in zip(whole[step:], resumed, strict=True):
        assert torch.equal(batch["labels"], same["labels"]) and torch.equal(batch["input_ids"], same["input_ids"])
