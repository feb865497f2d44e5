"""The model card of a pretrained model."""

from huggingface_hub import ModelCard

from span_electra.common.run_files import CURVES, HISTORY
from span_electra.hub.model_cards import card_metadata, option_table, short_list, without_folder
from span_electra.pretraining.history import last_evaluations, last_training, metric_rows
from span_electra.pretraining.mixture import mixed_list

CARD_OPTIONS = (
    *("config", "config_overrides", "model_name_or_path", "generator_name_or_path", "max_seq_length", "mask_ratio"),
    *("objective", "max_span_words", "whole_words", "documents", "pack_documents"),
    *("rows_per_update", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate"),
    *("warmup_steps", "weight_decay"),
    *("max_steps", "num_train_epochs", "lr_scheduler_type", "seed", "bf16", "fp16"),
)


def model_card(settings: dict, history: list[dict], **metadata) -> ModelCard:
    """Build the README.md that goes to the Hub with the weights. The arguments are those of `write_report`."""
    paths, shares = settings.get("train_file", []), settings.get("mixture")
    data = mixed_list(paths, shares) if shares else short_list(paths)
    sources = (settings.get(name) for name in ("model_name_or_path", "generator_name_or_path"))
    bases = " and ".join(without_folder(name) for name in sources if name)
    steps = max((entry["step"] for entry in history), default=0)
    evaluations = last_evaluations(history)
    text = introduction(
        settings, f"{steps:,} steps" + (f" on {data}" if data else "") + (f", starting from {bases}" if bases else "")
    )
    text += FIGURES.format(
        metrics=metric_sections(evaluations, last_training(history)),
        options=option_table(settings, CARD_OPTIONS),
        curves=CURVES,
        history=HISTORY,
    )
    return ModelCard(f"---\n{card_metadata(settings, evaluations, **metadata)}\n---\n{text}")


def introduction(settings: dict, training: str) -> str:
    """Say what the model is and how to load it: both halves or the generator, of SpanElectra or stock encoders."""
    family, path = settings.get("family"), settings.get("hub_model_id") or "."
    training += " with SpanElectra" if family else ""
    title = f"{family} pretrained on spans" if family else "SpanElectra"
    if settings.get("objective") == "generator":
        source = "--model_name_or_path" if family else "--generator"
        about = LONE_GENERATOR.format(title=title, training=training, source=f"{source} {path}")
        classes, code = ("AutoModelForMaskedLM", STOCK_GENERATOR) if family else ("pipeline", ELECTRA_FILL_MASK)
    else:
        about = PAIR.format(title=title, training=training)
        about += STOCK_HALVES.format(family=family) if family else ELECTRA_HALVES
        classes, code = (STOCK_CLASSES, STOCK_CODE) if family else (ELECTRA_CLASSES, ELECTRA_CODE)
    return about + USE.format(classes=classes, path=path, code=code)


def metric_sections(evaluations: dict[str, dict[str, float]], training: dict[str, float]) -> str:
    """Format the metrics of each evaluation set as a section, or training's last metrics without an evaluation."""
    sections = {f"Evaluation: {name}" if name else "Evaluation": metrics for name, metrics in evaluations.items()}
    if not sections and training:
        sections = {f"Training, last log (step {training['step']:,}; there was no evaluation)": training}
    tables = {title: metric_rows(metrics) for title, metrics in sections.items()}
    return "\n".join(
        METRIC_SECTION.format(title=title, rows="\n".join(f"| {' | '.join(row)} |" for row in rows))
        for title, rows in tables.items()
    )


METRIC_SECTION = """
## {title}

| metric | value | |
|---|---|---|
{rows}
"""

PAIR = """
# {title}

A text encoder, pretrained the ELECTRA way on spans: a generator fills masked spans, a discriminator finds the tokens
that it replaced. Trained for {training}.
"""

LONE_GENERATOR = """
# {title}: the generator alone

The first of two stages of an encoder that is pretrained the ELECTRA way on spans: a masked language model that fills
masked spans. Trained for {training}. **The discriminator, which is the encoder to fine-tune, is not trained yet**:
`run_pretraining.py --objective discriminator {source}` does that, against this generator.
"""

USE = """
## Use

```python
from transformers import {classes}

path = "{path}"  # a folder with these files, or its name on the Hub
{code}
```
"""

ELECTRA_HALVES = """
The folder holds both halves. The **discriminator** is the encoder to fine-tune: `electra.*` in the weights, and what
`AutoModel` and every task class load. The **generator** predicts masked tokens: `generator.*` in the weights, and what
`AutoModelForMaskedLM` loads.
"""
ELECTRA_FILL_MASK = 'fill_mask = pipeline("fill-mask", path, trust_remote_code=True)'
ELECTRA_CLASSES = "AutoModel, AutoModelForSequenceClassification, AutoTokenizer, ElectraModel, pipeline"
ELECTRA_CODE = f"""\
tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=True)
encoder = AutoModel.from_pretrained(path, trust_remote_code=True)
classifier = AutoModelForSequenceClassification.from_pretrained(path, num_labels=2, trust_remote_code=True)
encoder = ElectraModel.from_pretrained(path)  # stock ELECTRA reads the discriminator, with no code from here
{ELECTRA_FILL_MASK}"""

STOCK_HALVES = """
The folder is a stock {family} checkpoint, the **discriminator**, which is the encoder to fine-tune. `generator/` is a
stock masked language model. `pretraining/` holds what only further pretraining needs.
"""
STOCK_GENERATOR = 'generator = AutoModelForMaskedLM.from_pretrained(path, subfolder="generator")'
STOCK_CLASSES = "AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer"
STOCK_CODE = f"""\
tokenizer = AutoTokenizer.from_pretrained(path)
encoder = AutoModel.from_pretrained(path)
classifier = AutoModelForSequenceClassification.from_pretrained(path, num_labels=2)
{STOCK_GENERATOR}"""

FIGURES = """{metrics}
Metrics are over all real tokens, and (`span_`) over the masked ones only; losses are in nats. A baseline always gives
the most frequent answer. `fixed_`: on a text in which the masked tokens of a row have swapped positions, the same for
every model. `probe_`: a linear classifier on the discriminator's hidden states.

![Losses, generator and discriminator over the steps]({curves})

## Training

| option | value |
|---|---|
{options}

All options and the whole history: `{history}`.
"""
