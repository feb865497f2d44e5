"""The metadata of model cards, by which the Hub lists, filters and compares models, and their tables."""

import math
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from span_electra.common.paths import looks_like_path

TAGS = ("span-electra", "electra")  # a pair of stock encoders has its family in place of the second
MOST_NAMES = 3  # more files of text are only counted

# A metric in the Hub's table of results -> the Hub's names for the task and the metric.
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

# Options that may name a file or folder of this machine.
SOURCES = {"config", "model_name_or_path", "generator_name_or_path"}


def card_metadata(settings: dict, evaluations: dict[str, dict[str, float]], **metadata) -> ModelCardData:
    """Build the metadata of a pretrained model's card.

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
        # With fill-mask, `pipeline(model=...)` would load the generator, although most people want the encoder.
        "pipeline_tag": "fill-mask" if is_generator else "feature-extraction",
    }
    entries |= {name: value for name, value in metadata.items() if value is not None}
    tags = entries.get("tags", [])
    own = (TAGS[0], settings["family"]) if settings.get("family") else TAGS
    entries["tags"] = [*own, *([tags] if isinstance(tags, str) else tags)]
    return model_metadata(settings, results, **entries)


def model_metadata(settings: dict, results: list[EvalResult], **entries) -> ModelCardData:
    """Build what the Hub lists, filters and compares models by; `entries` override it."""
    base, paths = settings.get("model_name_or_path"), settings.get("train_file", [])
    common = {
        "library_name": "transformers",
        "datasets": dataset_names([paths] if isinstance(paths, str) else paths) or None,
        "base_model": base if is_on_the_hub(base) else None,  # the Hub cannot link to a local folder
        "metrics": sorted({result.metric_type for result in results}) or None,
        "model_name": model_name(settings),
        "eval_results": results or None,
    }
    return ModelCardData(**common | entries)


def model_name(settings: dict) -> str:
    return Path(settings.get("hub_model_id") or settings.get("output_dir") or "span-electra").absolute().name


def dataset_names(paths: list[str]) -> list[str]:
    """Return those of `paths` that name datasets on the Hub, without their configurations."""
    return [path.partition(":")[0] for path in paths if not looks_like_path(path) and not Path(path).exists()]


def is_on_the_hub(name: str | None) -> bool:
    """Return whether `name` is a model's, and not a local folder."""
    return name is not None and not Path(name).is_absolute() and not Path(name).exists()


def without_folder(name: str) -> str:
    """Return the name of a model or a file without its local folder."""
    return name if is_on_the_hub(name) else Path(name).absolute().name


def short_list(paths: list[str]) -> str:
    """Name the first few texts, and count the others."""
    names = [Path(path).name or path for path in paths[:MOST_NAMES]]
    return ", ".join(names) + (f" and {len(paths) - MOST_NAMES:,} more" if len(paths) > MOST_NAMES else "")


def eval_results(settings: dict, set_name: str, evaluation: dict[str, float]) -> list[EvalResult]:
    """Turn the metrics of an evaluation set into entries of the card's `model-index`."""
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
            dataset_split=set_name or None,  # the Hub tells sets apart by it
            metric_type=metric,
            metric_name=name.replace("_", " "),
            metric_value=float(evaluation[name]),
        )
        for name, (task, task_name, metric) in RESULTS.items()
        if math.isfinite(evaluation.get(name, math.nan))
    ]


def option_table(settings: dict, names: Iterable[str]) -> str:
    """Format the options in `names` that have a value as rows of a Markdown table."""
    options = {name: settings[name] for name in names if settings.get(name) not in (None, "", -1)}
    for name in SOURCES & options.keys():
        options[name] = without_folder(options[name])
    if "max_steps" in options:
        options.pop("num_train_epochs", None)  # max_steps overrides it
    return "\n".join(f"| `{name}` | {value} |" for name, value in options.items())
