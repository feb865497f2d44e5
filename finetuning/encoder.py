"""Load any encoder that the Auto classes know, with a new head, and refuse those that would train badly."""

import logging

import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

import span_electra.modeling_span_electra  # noqa: F401 - the Auto classes know our models only once it is imported
from span_electra.common.attributes import no_loading_report
from span_electra.common.errors import InputError, as_input_error
from span_electra.common.vocabulary import check_tokenizer, vocabulary_size
from span_electra.finetuning.arguments import EncoderArguments
from span_electra.finetuning.task import Task

logger = logging.getLogger(__name__)

GENERATORS = ("ElectraForMaskedLM", "ElectraForCausalLM", "SpanElectraForMaskedLM")
# In these families the position of the first token is the padding id plus one.
NUMBERED_FROM_PADDING = (
    *("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "camembert", "data2vec-text", "longformer"),
    *("mpnet", "xmod"),
)
DROPOUT = 0.1  # Clark et al., 2020, table 7
DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob")


def load_config(arguments: EncoderArguments) -> PretrainedConfig:
    """Load the encoder's configuration. Refuse a checkpoint without a trained discriminator."""
    name = arguments.model_name_or_path
    with as_input_error(f"--model_name_or_path {name}"):
        config = AutoConfig.from_pretrained(name, trust_remote_code=arguments.trust_remote_code)
    saved_as = (config.architectures or ["a model of unknown class"])[0]
    if saved_as in GENERATORS:
        raise InputError(
            f"--model_name_or_path {name}: was saved as {saved_as}, a generator. Fine-tune the discriminator: the "
            "folder that run_pretraining.py wrote, or the ELECTRA whose name ends in -discriminator."
        )
    if not all(hasattr(config, name) for name in ("vocab_size", "hidden_size")):
        raise InputError(
            f"--model_name_or_path {name}: a {config.model_type} is not a text encoder. Give one such as ELECTRA or "
            "BERT."
        )
    # `no_loading_report` would hide the model's own warning.
    if getattr(config, "discriminator_is_untrained", False):
        raise InputError(
            f"--model_name_or_path {name}: only its generator was trained, but fine-tuning uses the discriminator. "
            f"Train that first: run_pretraining.py --config small --objective discriminator --generator {name}."
        )
    return config


def load_tokenizer(arguments: EncoderArguments, config: PretrainedConfig) -> PreTrainedTokenizerBase:
    name = arguments.tokenizer or arguments.model_name_or_path
    with as_input_error(f"The tokenizer {name}", "Give one with --tokenizer."):
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=arguments.trust_remote_code)
    check_tokenizer(tokenizer, "pad")
    tokenizer.padding_side = "right"  # words and answers are found by their offsets from the left
    if getattr(config, "type_vocab_size", None) == 1:  # the model has no second token type
        tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
    return tokenizer


def longest_row(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the longest row in tokens that the encoder can read."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None or positions < 1:  # T5 and Funnel have none, and XLNet's -1 means no limit
        return tokenizer.model_max_length
    if config.model_type in NUMBERED_FROM_PADDING:
        positions -= config.pad_token_id + 1
    return min(positions, tokenizer.model_max_length)


def set_dropout(config: PretrainedConfig, asked: float | None) -> float | None:
    """Set the dropout to `asked`, or to ELECTRA's. Return it, or None if the encoder keeps its own.

    Encoders are often pretrained without dropout, and would overfit a small task without it.
    """
    if not all(hasattr(config, name) for name in DROPOUTS):
        if asked is not None:
            raise InputError(
                f"--dropout is {asked}, but the configuration of a {config.model_type} lacks "
                f"{' and '.join(DROPOUTS)}. Leave the option out, or set the dropout in config.json."
            )
        logger.warning(f"A {config.model_type} has no {' and '.join(DROPOUTS)}, so it keeps its own dropout.")
        return None
    dropout = DROPOUT if asked is None else asked
    for name in DROPOUTS:
        setattr(config, name, dropout)
    if getattr(config, "classifier_dropout", None) is not None:
        config.classifier_dropout = dropout
    return dropout


def check_vocabulary(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    if (needed := vocabulary_size(tokenizer)) > config.vocab_size:
        raise InputError(
            f"The tokenizer {tokenizer.name_or_path} needs a vocab_size of {needed}, but the model's is "
            f"{config.vocab_size}: use the model's own tokenizer."
        )


def build_model(arguments: EncoderArguments, config: PretrainedConfig, task: Task) -> PreTrainedModel:
    """Build the encoder with a new head for `task`. With --from_scratch all its weights are random."""
    name, trust = arguments.model_name_or_path, arguments.trust_remote_code
    with as_input_error(f"--model_name_or_path {name}"):
        if arguments.from_scratch:
            return task.auto_class.from_config(config, trust_remote_code=trust, dtype=torch.float32)
        with no_loading_report():
            model, loaded = task.auto_class.from_pretrained(
                name,
                config=config,
                trust_remote_code=trust,
                dtype=torch.float32,  # --bf16 needs the weights in full precision as well
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    check_loaded(name, model, loaded)
    head = {key for key in model.state_dict() if not key.startswith(f"{model.base_model_prefix}.")}
    if head - set(loaded["missing_keys"]):
        logger.info(f"{name}: a new head replaces the one that it was fine-tuned with.")
        new = task.auto_class.from_config(config, trust_remote_code=trust, dtype=torch.float32).state_dict()
        model.load_state_dict({key: new[key] for key in head}, strict=False)
    return model


def check_loaded(name: str, model: PreTrainedModel, loaded: dict) -> None:
    """Refuse a partly random encoder. Only the head and the pooler, which belongs to it, may be new."""
    mismatched = [key if isinstance(key, str) else key[0] for key in loaded["mismatched_keys"]]
    absent = [
        key
        for key in (*loaded["missing_keys"], *mismatched)
        if key.startswith(f"{model.base_model_prefix}.") and ".pooler." not in key
    ]
    if absent:
        raise InputError(
            f"--model_name_or_path {name}: {len(absent)} of the encoder's weights are missing or of another shape "
            f"({', '.join(sorted(absent)[:3])}). Give a complete checkpoint, or --from_scratch for random weights."
        )
