"""SpanElectra: text encoders pretrained to tell which tokens of a span were replaced."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Importing the models registers them with the Auto classes. It takes seconds, which the command's help does without;
# a subcommand that loads checkpoints imports them itself.
IS_COMMAND = "span-electra" in {Path(program).stem for program in sys.argv[:1]}

if TYPE_CHECKING or not IS_COMMAND:
    from .modeling_span_electra import (
        SpanElectraForMaskedLM,
        SpanElectraForMultipleChoice,
        SpanElectraForPreTraining,
        SpanElectraForQuestionAnswering,
        SpanElectraForSequenceClassification,
        SpanElectraForTokenClassification,
        SpanElectraModel,
    )

if TYPE_CHECKING:
    from .common.vocabulary import vocabulary_size
    from .configuration_span_electra import SpanElectraConfig
    from .data_collator import DataCollatorForSpanMasking
    from .encoders.configuration_span_encoder import SpanEncoderConfig
    from .encoders.modeling_span_encoder import SpanEncoderForPreTraining
    from .hub.publishing import push_run
    from .pretraining.arguments import PretrainingArguments
    from .pretraining.trainer import SpanElectraTrainer
    from .training.set_epoch import SetEpoch

__version__ = "0.1.0"

# Loaded when they are asked for. Other names are the models'.
LAZY = {
    "DataCollatorForSpanMasking": ".data_collator",
    "PretrainingArguments": ".pretraining.arguments",
    "SetEpoch": ".training.set_epoch",
    "SpanElectraConfig": ".configuration_span_electra",
    "SpanElectraTrainer": ".pretraining.trainer",
    "SpanEncoderConfig": ".encoders.configuration_span_encoder",
    "SpanEncoderForPreTraining": ".encoders.modeling_span_encoder",
    "push_run": ".hub.publishing",
    "vocabulary_size": ".common.vocabulary",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(LAZY.get(name, ".modeling_span_electra"), __name__), name)


__all__ = [
    "DataCollatorForSpanMasking",
    "PretrainingArguments",
    "SetEpoch",
    "SpanElectraConfig",
    "SpanElectraForMaskedLM",
    "SpanElectraForMultipleChoice",
    "SpanElectraForPreTraining",
    "SpanElectraForQuestionAnswering",
    "SpanElectraForSequenceClassification",
    "SpanElectraForTokenClassification",
    "SpanElectraModel",
    "SpanElectraTrainer",
    "SpanEncoderConfig",
    "SpanEncoderForPreTraining",
    "push_run",
    "vocabulary_size",
]
