"""SpanElectra: ELECTRA pretrained on spans."""

from .configuration_span_electra import SpanElectraConfig
from .modeling_span_electra import (
    SpanElectraForMaskedLM,
    SpanElectraForMultipleChoice,
    SpanElectraForPreTraining,
    SpanElectraForQuestionAnswering,
    SpanElectraForSequenceClassification,
    SpanElectraForTokenClassification,
    SpanElectraModel,
)

__all__ = [
    "SpanElectraConfig",
    "SpanElectraForMaskedLM",
    "SpanElectraForMultipleChoice",
    "SpanElectraForPreTraining",
    "SpanElectraForQuestionAnswering",
    "SpanElectraForSequenceClassification",
    "SpanElectraForTokenClassification",
    "SpanElectraModel",
]
