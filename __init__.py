"""SpanElectra: ELECTRA pretrained on spans."""
