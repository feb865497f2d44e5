"""The metadata and the tables of model cards: what the Hub lists, filters and compares models by."""

import math
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from span_electra.common.paths import looks_like_path

TAGS = ("span-electra", "electra")  # of a pair of stock encoders: the first, and its family
MOST_NAMES = 3  # of files that a text was read from

# What is entered into the Hub's table of results: the half of the model, the Hub's names for its task and the metric.
GENERATOR = ("fill-mask", "Masked tokens (generator)")
DISCRIMINATOR = ("token-classification", "Replaced token detection (discriminator)")
RESULTS = {
    "generator_accuracy": (*GENERATOR, "accuracy"),
    "discriminator_auc": (*DISCRIMINATOR, "roc_auc"),
    "discriminator_precision": (*DISCRIMINATOR, "precision"),
    "discriminator_recall": (*DISCRIMINATOR, "recall"),
    "discriminator_f1": (*DISCRIMINATOR, "f1"),
    "discriminator_accuracy": (*DISCRIMINATOR, "accuracy"),
}

# The options that make one run differ from another, in the order in which the card names them.
SOURCES = {"config", "model_name_or_path", "generator_name_or_path"}


def card_metadata(settings: dict, evaluations: dict[str, dict[str, float]], **metadata) -> ModelCardData:
    """What the Hub lists, filters and compares models by.

    Args:
        settings: All options by name.
        evaluations: The last metrics of each evaluation set; a single set is called "". Empty without an evaluation.
        metadata: Entries that override the run's own, by the names of `ModelCardData`. Tags are added to ours.
    """
    results = [result for name in evaluations for result in eval_results(settings, name, evaluations[name])]
    # The folder of a pair of stock encoders is the discriminator's, trained or not.
    is_generator = settings.get("objective") == "generator" and not settings.get("family")
    entries = {
        "language": settings.get("language") or None,
        "license": settings.get("license"),
        "library_name": "transformers",
        # By fill-mask `pipeline(model=...)` loads the generator, which is not what one wants where there is more.
        "pipeline_tag": "fill-mask" if is_generator else "feature-extraction",
        "datasets": dataset_names(settings.get("train_file", [])) or None,
        "base_model": settings.get("model_name_or_path")
        if is_on_the_hub(settings.get("model_name_or_path"))
        else None,
        "metrics": sorted({result.metric_type for result in results}) or None,
        "model_name": model_name(settings),
        "eval_results": results or None,
    }
    entries |= {name: value for name, value in metadata.items() if value is not None}
    tags = entries.get("tags", [])
    own = (TAGS[0], settings["family"]) if settings.get("family") else TAGS
    return ModelCardData(**entries | {"tags": [*own, *([tags] if isinstance(tags, str) else tags)]})


def model_name(settings: dict) -> str:
    return Path(settings.get("hub_model_id") or settings.get("output_dir") or "span-electra").absolute().name


def dataset_names(paths: list[str]) -> list[str]:
    """Those of the texts that are on the Hub and no files (which may be gone by now), without their configurations."""
    return [path.partition(":")[0] for path in paths if not looks_like_path(path) and not Path(path).exists()]


def is_on_the_hub(name: str | None) -> bool:
    """Whether a model is no folder of this machine's."""
    return name is not None and not Path(name).is_absolute() and not Path(name).exists()


def without_folder(name: str) -> str:
    """A model's or a file's name, for others, without where it is on this machine."""
    return name if is_on_the_hub(name) else Path(name).absolute().name


def short_list(paths: list[str]) -> str:
    """The names of the first few texts, and how many more there are."""
    names = [Path(path).name or path for path in paths[:MOST_NAMES]]
    return ", ".join(names) + (f" and {len(paths) - MOST_NAMES:,} more" if len(paths) > MOST_NAMES else "")


def eval_results(settings: dict, set_name: str, evaluation: dict[str, float]) -> list[EvalResult]:
    """The metrics of an evaluation set as entries of the card's `model-index`."""
    paths = settings.get("validation_file") or settings.get("train_file") or []
    names = dataset_names(paths)
    text = short_list(paths)
    text = set_name or (text if settings.get("validation_file") else f"{text} (rows held back from training)")
    return [
        EvalResult(
            task_type=task,
            task_name=task_name,
            dataset_type=names[0] if names else "text",
            dataset_name=text,
            dataset_split=set_name or None,  # by which the Hub tells sets apart
            metric_type=metric,
            metric_name=name.replace("_", " "),
            metric_value=float(evaluation[name]),
        )
        for name, (task, task_name, metric) in RESULTS.items()
        if math.isfinite(evaluation.get(name, math.nan))
    ]


def option_table(settings: dict, names: Iterable[str]) -> str:
    """The rows of a Markdown table of those options in `names` that a run was given."""
    options = {name: settings[name] for name in names if settings.get(name) not in (None, "", -1)}
    for name in SOURCES & options.keys():
        options[name] = without_folder(options[name])
    if "max_steps" in options:
        options.pop("num_train_epochs", None)  # which it overrides
    return "\n".join(f"| `{name}` | {value} |" for name, value in options.items())
