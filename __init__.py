"""SpanElectra: text encoders pretrained to tell which tokens of a span were replaced."""

from typing import TYPE_CHECKING, Any

from .common.vocabulary import vocabulary_size
from .configuration_span_electra import SpanElectraConfig
from .data_collator import DataCollatorForSpanMasking
from .encoders.configuration_span_encoder import SpanEncoderConfig
from .encoders.modeling_span_encoder import SpanEncoderForPreTraining
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
    from .hub.publishing import push_run
    from .pretraining.arguments import PretrainingArguments
    from .pretraining.trainer import SpanElectraTrainer
    from .training.set_epoch import SetEpoch

__version__ = "0.1.0"

# Loaded when they are asked for: they need more libraries than a model does.
LAZY = {
    "PretrainingArguments": ".pretraining.arguments",
    "SetEpoch": ".training.set_epoch",
    "SpanElectraTrainer": ".pretraining.trainer",
    "push_run": ".hub.publishing",
}


def __getattr__(name: str) -> Any:
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(LAZY[name], __name__), name)


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
