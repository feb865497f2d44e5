"""Load any encoder that the Auto classes know, with a new head, and refuse those that would train badly."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from span_electra.common.errors import InputError, as_input_error
from span_electra.common.vocabulary import vocabulary_size
from span_electra.finetuning.arguments import EncoderArguments
from span_electra.finetuning.task import Task

logger = logging.getLogger(__name__)

GENERATORS = ("ElectraForMaskedLM", "ElectraForCausalLM", "SpanElectraForMaskedLM")
DROPOUT = 0.1  # Clark et al., 2020, table 7
DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob")


def load_config(arguments: EncoderArguments) -> PretrainedConfig:
    """Load the encoder's configuration.

    Raises:
        InputError: There is none, or the model is a generator, or only its generator was trained.
    """
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
    if not tokenizer.is_fast:
        raise InputError(f"{name}: a slow tokenizer cannot map tokens to the text. Give one with a tokenizer.json.")
    if tokenizer.pad_token is None:
        raise InputError(f"{name}: the tokenizer has no padding token. Give one that has it with --tokenizer.")
    tokenizer.padding_side = "right"  # words and answers are found by their offsets from the left
    if getattr(config, "type_vocab_size", None) == 1:  # the model has no second token type
        tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
    return tokenizer


def longest_row(arguments: EncoderArguments, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the longest row in tokens that the encoder can read."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None or positions < 1:  # T5 and Funnel have none, and XLNet's -1 means no limit
        return tokenizer.model_max_length
    return min(positions - unused_positions(arguments, config), tokenizer.model_max_length)


def unused_positions(arguments: EncoderArguments, config: PretrainedConfig) -> int:
    """Return how many position embeddings no token uses. RoBERTa's positions start after the padding id."""
    with torch.device("meta"):
        encoder = AutoModel.from_config(config, trust_remote_code=arguments.trust_remote_code)
    for name, module in encoder.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return module.padding_idx + 1
    return 0


def set_dropout(config: PretrainedConfig, asked: float | None) -> float | None:
    """Set the dropout to `asked`, or to ELECTRA's. Return it, or None if the encoder keeps its own.

    Encoders are often pretrained without dropout, and would overfit a small task without it.

    Raises:
        InputError: You asked for a dropout, but the configuration has none under BERT's names.
    """
    if not all(hasattr(config, name) for name in DROPOUTS):
        if asked is not None:
            raise InputError(
                f"--dropout is {asked}, but a {config.model_type} has no {' and '.join(DROPOUTS)}. Leave it out, and "
                "edit config.json instead."
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
    """Build the encoder with a new head for `task`. With --from_scratch all its weights are random.

    Raises:
        InputError: The encoder's weights cannot be loaded, or some are missing.
    """
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


@contextmanager
def no_loading_report() -> Iterator[None]:
    """Hide the report that the head is new, which is intended. `check_loaded` checks the rest."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
