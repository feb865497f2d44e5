"""What a run and the one that resumes it must have in common."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.utils import gather_object
from accelerate.utils.constants import FSDP_MODEL_NAME
from torch import nn
from transformers import PreTrainedConfig, TrainingArguments
from transformers.trainer_utils import has_length
from transformers.utils import CONFIG_NAME

from span_electra.common.errors import InputError
from span_electra.configuration_span_electra import ENCODER_SHAPE, SpanElectraConfig
from span_electra.encoders.configuration_span_encoder import PRETRAINING_FOLDER, SpanEncoderConfig
from span_electra.masking.randomness import MASKING_VERSION
from span_electra.training.checkpoint_folders import sealed_facts

# What a checkpoint and the model that resumes from it must have in common.
SHAPE = (*ENCODER_SHAPE, *(f"generator_{name}" for name in ENCODER_SHAPE), "vocab_size", "embedding_size")
SHAPE += ("max_position_embeddings", "type_vocab_size", "max_span_length", "boundary_position_size")
SHAPE += ("embedding_sharing", "share_encoder", "use_sbgo", "use_sbpo", "objective")
SHAPE += ("hidden_act", "layer_norm_eps", "pad_token_id")

PAIR_SHAPE = ("max_span_length", "boundary_position_size", "embedding_sharing", "use_sbgo", "use_sbpo", "objective")
# Of a stock configuration everything else: which class was saved by which version, and what only training reads.
NOT_OF_THE_SHAPE = (
    *("architectures", "dtype", "transformers_version", "_name_or_path", "attention_dropout"),
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "embedding_dropout", "mlp_dropout"),
)

# What two runs must have in common besides `run_facts`: the options of the script that say how rows are masked,
MASKING = ("mask_ratio", "max_span_words", "whole_words")
# and the attributes of a collator that say it in full. The script sets only the former.
COLLATOR_FACTS = (*MASKING, "span_p", "mask_token_share", "random_token_share")
WHY_THE_SAME = dict.fromkeys(("optim", "parameters"), "its state would not fit")
WHY_THE_SAME |= dict.fromkeys((*COLLATOR_FACTS, "collator_seed"), "it would mask in another way")


def collator_facts(collator) -> dict:
    """The settings by which a collator masks, as far as it has them."""
    facts = {name: getattr(collator, name) for name in COLLATOR_FACTS if hasattr(collator, name)}
    return facts | ({"collator_seed": collator.seed} if hasattr(collator, "seed") else {})


def check_same_run(checkpoint: Path, facts: dict) -> None:
    """Refuse to resume if the remaining rows would not be those that the run has not seen, if they would be masked in
    another way, or if the optimizer is another.

    Args:
        checkpoint: The checkpoint to resume from.
        facts: This run's `run_facts`, and what is known of how it masks.
    """
    saved_facts = sealed_facts(checkpoint)
    if saved_facts.get("masking_version") != MASKING_VERSION or "parameters" not in saved_facts:
        raise InputError(
            f"--resume_from_checkpoint {checkpoint}: was written by a version of this package that masks in another "
            "way, or has the parameters in another order. Resume with that version, or start a new run with "
            f"--model_name_or_path {checkpoint}."
        )
    for name, saved in saved_facts.items():
        if name in facts and facts[name] != saved:
            why = WHY_THE_SAME.get(name, "some rows would come twice and others not at all")
            raise InputError(
                f"--resume_from_checkpoint {checkpoint}: its run had {name} {saved}, this one {facts[name]}: "
                f"{why}. Resume as the run began (rows_per_update is processes x per_device_train_batch_size x "
                "gradient_accumulation_steps; for rows on disk only the product must stay the same), or start a new "
                f"run with --model_name_or_path {checkpoint}."
            )


def check_same_checkpoint(checkpoint: Path | None) -> None:
    """Refuse to resume unless all processes, which may be on several machines, find the same checkpoint."""
    found = gather_object([checkpoint and checkpoint.name])
    if len(set(found)) > 1:
        raise InputError(
            f"--resume_from_checkpoint: the processes find different checkpoints ({', '.join(map(str, found))}); give "
            "an --output_dir that all machines share."
        )


def check_sharding(checkpoint: Path, is_sharded: bool) -> None:
    """Refuse to resume with FSDP a run without it, or the other way round: the optimizer's state would not fit."""
    was_sharded = (checkpoint / f"{FSDP_MODEL_NAME}.bin").exists()
    if was_sharded != is_sharded:
        was, this = (("with" if sharded else "without") for sharded in (was_sharded, is_sharded))
        raise InputError(
            f"--resume_from_checkpoint {checkpoint}: was written {was} FSDP, and this run is {this} it. Resume as "
            f"the run began, or start a new one with --model_name_or_path {checkpoint}."
        )


def check_shape(checkpoint: Path, config: PreTrainedConfig) -> None:
    """Refuse to resume with a model of another shape than the checkpoint's."""
    if not (checkpoint / CONFIG_NAME).is_file():
        raise InputError(f"--resume_from_checkpoint {checkpoint}: holds no model; give another checkpoint.")
    is_pair = (checkpoint / PRETRAINING_FOLDER).is_dir()
    saved = SpanEncoderConfig.from_folder(checkpoint) if is_pair else SpanElectraConfig.from_pretrained(checkpoint)
    ours, theirs = shape_of(config), shape_of(saved)
    for name in ours | theirs:
        if ours.get(name) != theirs.get(name):
            raise InputError(
                f"--resume_from_checkpoint {checkpoint}: its {name} is {theirs.get(name)}, this run's is "
                f"{ours.get(name)}; resume with the configuration that the run began with."
            )


def shape_of(config: PreTrainedConfig) -> dict[str, Any]:
    """The settings by which the weights of a model fit another of its kind, and mean the same."""
    if isinstance(config, SpanElectraConfig):
        return {name: getattr(config, name) for name in SHAPE}
    shape = {name: getattr(config, name) for name in PAIR_SHAPE}
    for role in ("discriminator", "generator"):
        settings = getattr(config, role).to_dict()
        shape |= {f"{role}.{name}": value for name, value in settings.items() if name not in NOT_OF_THE_SHAPE}
    return shape


def parameters_digest(model: nn.Module) -> str:
    """A digest of the names and shapes of the trained parameters. Their order is that of the optimizer's state, which
    does not name them."""
    trained = [(name, *parameter.shape) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return hashlib.sha256(repr(trained).encode()).hexdigest()[:12]


def run_facts(args: TrainingArguments, dataset) -> dict:
    """What a run must have in common with one that resumes it, so that the remaining rows are the same and the
    optimizer's state fits."""
    rows_per_process = args.per_device_train_batch_size * args.gradient_accumulation_steps
    rows = getattr(dataset, "rows", dataset)  # of a mixture those on disk, because its own change with the epoch
    return {
        "rows": len(dataset) if has_length(dataset) else None,
        "content": sample_digest(rows) if has_length(rows) else None,
        "mixture": getattr(dataset, "mixture", None),
        "rows_per_update": rows_per_process * args.world_size,
        "train_sampling_strategy": args.train_sampling_strategy,
        "dataloader_drop_last": args.dataloader_drop_last,
        "seed": args.seed,
        "data_seed": args.data_seed,
        "optim": args.to_dict()["optim"],
        "masking_version": MASKING_VERSION,
    }


def sample_digest(dataset, count: int = 256) -> str:
    """A digest of the ids in some rows, which tells another text of as many rows apart."""
    sha256 = hashlib.sha256()
    for index in np.linspace(0, len(dataset) - 1, count).astype(int).tolist():
        sha256.update(np.asarray(dataset[index]["input_ids"], dtype=np.int64).tobytes())
    return sha256.hexdigest()[:12]
