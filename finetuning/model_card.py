"""The model card of a fine-tuned model."""

import math
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard

from span_electra.finetuning.report import RESULTS, results_table
from span_electra.hub.model_cards import dataset_names, model_metadata, model_name, without_folder

# A task of the script -> the Hub's name for it, which is the pipeline's, and the Auto class that loads the model.
HUB_TASKS = {
    "classification": ("text-classification", "AutoModelForSequenceClassification"),
    "regression": ("text-classification", "AutoModelForSequenceClassification"),
    "token-classification": ("token-classification", "AutoModelForTokenClassification"),
    "question-answering": ("question-answering", "AutoModelForQuestionAnswering"),
}


def finetuned_card(summary: dict, settings: dict) -> ModelCard:
    """Build the card from `summarise`'s result. Its metadata has the kept model's metrics, its text all seeds'."""
    task, auto_class = HUB_TASKS[settings["task"]]
    base, is_new = without_folder(settings["model_name_or_path"]), settings.get("from_scratch")
    validation = settings.get("validation_file") or settings["train_file"]
    kept = next(seed for seed in summary["seeds"] if seed["seed"] == summary["best_seed"])
    results = [
        EvalResult(
            task_type=task,
            dataset_type=next(iter(dataset_names([validation])), "text"),
            dataset_name=Path(validation).name,
            metric_type=name.removeprefix("overall_").removesuffix("_macro"),  # the Hub's name of the metric
            metric_name=name.replace("_", " "),
            metric_value=float(value),
        )
        for name, value in kept["metrics"].items()
        if name != "loss" and math.isfinite(value)
    ]
    metadata = model_metadata(settings, results, pipeline_tag=task, **({"base_model": None} if is_new else {}))
    text = CARD_TEMPLATE.format(
        name=model_name(settings),
        base=f"random weights in the architecture of {base}" if is_new else base,
        data=Path(settings["train_file"]).name,
        validation=Path(validation).name,
        task=task,
        auto_class=auto_class,
        usage=TAGGER_USAGE if task == "token-classification" else "",
        results=results_table(summary),
        file=RESULTS,
    )
    return ModelCard(f"---\n{metadata}\n---\n{text}")


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
## Evaluation on {validation}

```
{results}
```

The same data chose the seed and scored it, so compare models by the median. All options are in `{file}`.
"""
