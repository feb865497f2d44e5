"""SpanElectra: ELECTRA pretrained on spans."""

from .common.vocabulary import vocabulary_size
from .configuration_span_electra import SpanElectraConfig
from .configuration_span_encoder import SpanEncoderConfig
from .data_collator import DataCollatorForSpanMasking
from .modeling_span_electra import (
    SpanElectraForMaskedLM,
    SpanElectraForMultipleChoice,
    SpanElectraForPreTraining,
    SpanElectraForQuestionAnswering,
    SpanElectraForSequenceClassification,
    SpanElectraForTokenClassification,
    SpanElectraModel,
)
from .modeling_span_encoder import SpanEncoderForPreTraining

__version__ = "0.1.0"

__all__ = [
    "DataCollatorForSpanMasking",
    "SpanElectraConfig",
    "SpanElectraForMaskedLM",
    "SpanElectraForMultipleChoice",
    "SpanElectraForPreTraining",
    "SpanElectraForQuestionAnswering",
    "SpanElectraForSequenceClassification",
    "SpanElectraForTokenClassification",
    "SpanElectraModel",
    "SpanEncoderConfig",
    "SpanEncoderForPreTraining",
    "vocabulary_size",
]
