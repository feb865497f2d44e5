"""The model card of a fine-tuned model."""

import math
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from span_electra.hub.model_cards import dataset_names, model_metadata, model_name, option_table, without_folder

# A task of the script -> the Hub's name for it, which is the pipeline's, and the Auto class that loads the model.
HUB_TASKS = {
    "classification": ("text-classification", "AutoModelForSequenceClassification"),
    "regression": ("text-classification", "AutoModelForSequenceClassification"),
    "token-classification": ("token-classification", "AutoModelForTokenClassification"),
    "question-answering": ("question-answering", "AutoModelForQuestionAnswering"),
}
CARD_OPTIONS = (
    *("task", "from_scratch", "max_seq_length", "stride", "max_train_samples", "max_eval_samples"),
    *("learning_rate", "layerwise_lr_decay", "dropout"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs", "max_steps", "warmup_steps"),
    *("weight_decay", "lr_scheduler_type", "seed", "seeds", "bf16", "fp16"),
)


def finetuned_card(summary: dict, settings: dict) -> ModelCard:
    """Build the card from `summarise`'s result. Its metadata has the kept model's metrics, its text all seeds'."""
    task, auto_class = HUB_TASKS[settings["task"]]
    kept = next(seed for seed in summary["seeds"] if seed["seed"] == summary["best_seed"])
    rows = []
    for name in summary["median"]:
        middle, low, high = (summary[kind][name] for kind in ("median", "min", "max"))
        baseline = f"{summary['baseline'][name]:.4f}" if name in summary["baseline"] else ""
        rows.append(f"| {name} | {kept['metrics'][name]:.4f} | {middle:.4f} | {low:.4f} to {high:.4f} | {baseline} |")
    text = CARD_TEMPLATE.format(
        name=model_name(settings),
        base=base_name(settings),
        data=Path(settings["train_file"]).name,
        validation=validation_of(settings),
        task=task,
        auto_class=auto_class,
        usage=TAGGER_USAGE if task == "token-classification" else "",
        seeds=what_was_trained(summary),
        metrics="\n".join(rows),
        options=option_table(settings, CARD_OPTIONS),
    )
    return ModelCard(f"---\n{finetuned_metadata(kept['metrics'], settings)}\n---\n{text}")


def what_was_trained(summary: dict) -> str:
    """Say how many seeds were trained, how they ended, and how to read their metrics."""
    count, collapsed = len(summary["seeds"]), summary["collapsed"]
    if count == 1:
        text = "One seed was trained" + (", and collapsed to one answer." if collapsed else ".")
    else:
        text = (
            f"{count} seeds were trained, of which {collapsed} collapsed to one answer; these are the weights of seed "
            f"{summary['best_seed']}, which has the best {summary['metric']}. The same data chose and scored it, so "
            "compare models by the median."
        )
    return text + (f" A baseline always gives {summary['baseline_answer']}." if summary["baseline"] else "")


def finetuned_metadata(metrics: dict[str, float], settings: dict) -> ModelCardData:
    """Build the metadata of a fine-tuned model's card."""
    task, _ = HUB_TASKS[settings["task"]]
    names = dataset_names([settings.get("validation_file") or settings["train_file"]])
    results = [
        EvalResult(
            task_type=task,
            dataset_type=names[0] if names else "text",
            dataset_name=validation_of(settings),
            metric_type=name.removeprefix("overall_").removesuffix("_macro"),  # the Hub's name of the metric
            metric_name=name.replace("_", " "),
            metric_value=float(value),
        )
        for name, value in metrics.items()
        if name != "loss" and math.isfinite(value)
    ]
    no_base = {"base_model": None} if settings.get("from_scratch") else {}
    return model_metadata(settings, results, pipeline_tag=task, **no_base)


def base_name(settings: dict) -> str:
    """Say what training started from, without a local folder."""
    name = without_folder(settings["model_name_or_path"])
    return f"random weights in the architecture of {name}" if settings.get("from_scratch") else name


def validation_of(settings: dict) -> str:
    return Path(settings.get("validation_file") or settings["train_file"]).name


# Only a word's first token was trained.
TAGGER_USAGE = """
A word's tag is that of its first token: `pipeline("token-classification", ..., aggregation_strategy="first")`.
"""
CARD_TEMPLATE = """
# {name}

{base}, fine-tuned for {task} on {data}.

```python
from transformers import AutoTokenizer, {auto_class}

path = "."  # the folder with these files, or its name on the Hub
tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=True)
model = {auto_class}.from_pretrained(path, trust_remote_code=True)
```
{usage}
## Evaluation

On {validation}. {seeds}

| metric | this model | median of the seeds | lowest to highest | baseline |
|---|---|---|---|---|
{metrics}

## Training

| option | value |
|---|---|
{options}
"""
