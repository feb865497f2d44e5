"""The fixed corruption against a loop, and what evaluation makes of it."""

import datasets
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from trainer_examples import chained, make_trainer, rows, tiny_model

from span_electra.data_collator import DataCollatorForSpanMasking
from span_electra.pretraining.fixed_corruption import EvaluationCollator, trade_places
from span_electra.pretraining.metrics import logit_bins


def loop_written(input_ids, labels):
    text = torch.where(labels != -100, labels, input_ids)
    moved = text.clone()
    for row in range(len(text)):
        masked = [t for t in range(text.shape[1]) if labels[row, t] != -100]
        for place, source in zip(masked, masked[1:] + masked[:1], strict=True):
            moved[row, place] = text[row, source]
    return moved


def test_masked_tokens_trade_places_within_their_row():
    generator = torch.Generator().manual_seed(0)
    for share in (0.0, 0.05, 0.3, 1.0):
        text = torch.randint(5, 99, (40, 17), generator=generator)
        masked = torch.rand(text.shape, generator=generator) < share
        inputs, labels = text.masked_fill(masked, 3), text.masked_fill(~masked, -100)
        moved = trade_places(inputs, labels)
        assert torch.equal(moved, loop_written(inputs, labels))
        assert torch.equal(moved.sort(dim=1).values, text.sort(dim=1).values)
        assert (masked & (moved == text)).any() == (share > 0)  # alone in its row, or beside its like


def test_masked_tokens_do_not_trade_places_with_those_of_another_document():
    text = torch.tensor([[0, 5, 6, 7, 1, 0, 8, 9, 1]])
    masked = torch.tensor([[0, 1, 0, 1, 0, 0, 1, 1, 0]], dtype=torch.bool)
    places = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3]])
    moved = trade_places(text.masked_fill(masked, 3), text.masked_fill(~masked, -100), places)
    assert moved.tolist() == [[0, 7, 6, 5, 1, 0, 9, 8, 1]]


def test_the_fixed_corruption_of_shared_rows_is_judged_document_by_document(tokenizer, tmp_path):
    documents = rows(6)["input_ids"][:]
    trainers = []
    for name, content in (("alone", documents), ("shared", [chained(documents[:3]), chained(documents[3:])])):
        trainers.append(make_trainer(tokenizer, tmp_path / name, model=tiny_model(max_position_embeddings=66)))
        trainers[-1].eval_dataset = datasets.Dataset.from_dict({"input_ids": content})
    expected, shared = (trainer.evaluate()["eval_fixed_discriminator_auc"] for trainer in trainers)
    assert shared == pytest.approx(expected, abs=1e-6) and 0 < shared < 1


def test_the_fixed_corruption_is_judged_at_every_evaluation_whatever_the_generator_knows(tokenizer, tmp_path):
    trainer = make_trainer(tokenizer, tmp_path, model=tiny_model(embedding_sharing="separate"))
    before = trainer.evaluate()
    batch = trainer.eval_data_collator(list(rows(10)))
    moved = trade_places(batch["input_ids"], batch["labels"])
    with torch.no_grad():
        logits = trainer.model.eval()(input_ids=moved, attention_mask=batch["attention_mask"]).logits
    truth = (batch["labels"] != -100) & (moved != batch["labels"])
    expected = roc_auc_score(truth.flatten(), logit_bins(logits).flatten())
    assert before["eval_fixed_discriminator_auc"] == pytest.approx(expected, abs=1e-6)
    assert before["eval_generator_perplexity"] == pytest.approx(2.718281828 ** before["eval_mlm_loss"], rel=1e-4)
    for parameter in trainer.model.generator.parameters():
        nn.init.normal_(parameter)
    after = trainer.evaluate()
    assert after["eval_discriminator_auc"] != before["eval_discriminator_auc"]
    assert after["eval_fixed_discriminator_auc"] == before["eval_fixed_discriminator_auc"]
    assert "fixed_discriminator_auc" not in trainer.train_metrics.compute()


def test_the_fixed_corruption_is_the_same_for_runs_that_mask_differently(tokenizer, tmp_path):
    scores = []
    for settings in ({}, {"mask_ratio": 0.4, "max_span_words": 1}):
        trainer = make_trainer(tokenizer, tmp_path, model=tiny_model(embedding_sharing="separate"))
        masks = DataCollatorForSpanMasking(tokenizer, **settings)
        trainer.eval_data_collator = EvaluationCollator(masks, DataCollatorForSpanMasking(tokenizer))
        scores.append(trainer.evaluate())
    assert scores[0]["eval_fixed_discriminator_auc"] == scores[1]["eval_fixed_discriminator_auc"]
    assert scores[0]["eval_discriminator_auc"] != scores[1]["eval_discriminator_auc"]
