"""Two learning rates: for a model's loaded weights and for its new parameters."""

import pytest
import torch
from trainer_examples import make_trainer, tiny_model
from transformers import BertConfig, BertModel, ElectraConfig, ElectraModel

from span_electra.common.errors import InputError
from span_electra.conversion.warm_start import from_electra, from_stock_encoder
from span_electra.pretraining.arguments import parse_arguments

SIZES = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 64, "max_position_embeddings": 32, "pad_token_id": 2}


@pytest.fixture
def bert(tmp_path):
    """The folder of a small BERT."""
    torch.manual_seed(0)
    BertModel(BertConfig(**SIZES)).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


@pytest.fixture
def electra(tmp_path):
    """The folder of a small ELECTRA without its head."""
    torch.manual_seed(0)
    ElectraModel(ElectraConfig(**SIZES, embedding_size=32)).save_pretrained(tmp_path / "electra")
    return tmp_path / "electra"


def rates(trainer) -> dict[str, tuple[float, float]]:
    """The peak learning rate and the weight decay of every parameter by name."""
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    groups = trainer.optimizer.param_groups
    peaks = [group["lr"] for group in groups] if trainer.lr_scheduler is None else trainer.inner_scheduler().base_lrs
    return {
        names[id(parameter)]: (peak, group["weight_decay"])
        for peak, group in zip(peaks, groups, strict=True)
        for parameter in group["params"]
    }


@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.0])
def test_loaded_weights_are_trained_at_a_rate_of_their_own(tokenizer, tmp_path, electra, ratio):
    trainer = make_trainer(
        tokenizer, tmp_path, from_electra(electra), learning_rate=4e-4, weight_decay=0.5, pretrained_lr_ratio=ratio
    )
    trainer.create_optimizer()
    found = rates(trainer)
    assert found.keys() == {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    for name in ("electra.embeddings.word_embeddings", "electra.encoder.layer.1.output.dense"):
        assert found[f"{name}.weight"] == (pytest.approx(4e-4 * ratio), 0.5)
    assert found["electra.encoder.layer.1.output.dense.bias"] == (pytest.approx(4e-4 * ratio), 0.0)
    new = {name for name, (rate, _) in found.items() if rate == 4e-4}
    assert new == trainer.model.new_parameters
    assert found["sbpo_prediction.weight"] == (4e-4, 0.5) and found["sbpo_prediction.bias"] == (4e-4, 0.0)
    assert trainer.optimizer.param_groups[0]["lr"] == 4e-4  # the one that the log shows


def test_the_rate_of_loaded_weights_is_low_by_default(tokenizer, tmp_path, electra):
    trainer = make_trainer(tokenizer, tmp_path, from_electra(electra))
    trainer.create_optimizer()
    assert sorted({rate for rate, _ in rates(trainer).values()}) == pytest.approx([1e-5, 5e-4])


def test_both_networks_of_a_stock_encoder_are_trained_slowly_and_only_heads_fast(tokenizer, tmp_path, bert):
    trainer = make_trainer(tokenizer, tmp_path, from_stock_encoder(bert), learning_rate=4e-4)
    trainer.create_optimizer()
    fast = {name for name, (rate, _) in rates(trainer).items() if rate == 4e-4}
    heads = (
        "discriminator_predictions.",
        "sbgo_head.",
        "sbpo_head.",
        "sbpo_prediction.",
        "generator.cls.predictions.",
    )
    assert fast == {name for name in rates(trainer) if name.startswith(heads)}


def test_a_new_model_has_one_rate(tokenizer, tmp_path):
    trainer = make_trainer(tokenizer, tmp_path, tiny_model(), learning_rate=4e-4)
    trainer.create_optimizer()
    assert {rate for rate, _ in rates(trainer).values()} == {4e-4} and len(trainer.optimizer.param_groups) == 2


def test_a_resumed_run_keeps_both_rates_and_ends_with_the_same_weights(tokenizer, tmp_path, electra):
    settings = {"save_strategy": "steps", "save_steps": 3, "logging_steps": 3, "learning_rate": 1e-2}
    settings["pretrained_lr_ratio"] = 0.1
    whole = make_trainer(tokenizer, tmp_path, from_electra(electra), **settings)
    whole.train()
    resumed = make_trainer(tokenizer, tmp_path, from_electra(electra), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert rates(resumed) == rates(whole)
    assert sorted({rate for rate, _ in rates(whole).values()}) == pytest.approx([1e-3, 1e-2])
    for name, parameter in whole.model.named_parameters():
        assert torch.equal(parameter, resumed.model.get_parameter(name)), name


def test_a_resumed_run_may_change_the_ratio(tokenizer, tmp_path, electra):
    settings = {"save_strategy": "steps", "save_steps": 3, "learning_rate": 1e-2}
    make_trainer(tokenizer, tmp_path, from_electra(electra), **settings, pretrained_lr_ratio=0.1).train()
    resumed = make_trainer(tokenizer, tmp_path, from_electra(electra), **settings, pretrained_lr_ratio=1.0)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert {rate for rate, _ in rates(resumed).values()} == {1e-2}


def test_an_optimizer_of_your_own_is_left_as_it_is(tokenizer, tmp_path, electra):
    trainer = make_trainer(tokenizer, tmp_path, model := from_electra(electra))
    trainer.optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    trainer.create_optimizer()
    assert {rate for rate, _ in rates(trainer).values()} == {1.0}


def test_a_negative_ratio_is_refused():
    arguments = ["--config", "tiny", "--train_file", "x", "--output_dir", "y", "--pretrained_lr_ratio", "-1"]
    with pytest.raises(InputError, match=r"--pretrained_lr_ratio is -1\.0; it must be at least 0"):
        parse_arguments(arguments)
