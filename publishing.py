"""Publishing on the Hub: who may send what is asked before training, because afterwards hours are at stake."""

import math
from pathlib import Path

from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData, constants, get_session
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, LocalTokenNotFoundError
from huggingface_hub.utils import hf_raise_for_status
from transformers import TrainingArguments

from span_electra.errors import InputError, one_line
from span_electra.tokenization.text import looks_like_path

LOGIN = "log in with `hf auth login`, set HF_TOKEN, or give --hub_token (huggingface.co/settings/tokens makes one)"
TAGS = ("span-electra", "electra")
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


class PublishingError(RuntimeError):
    """An upload failed after training. What was trained is on the disk."""


def prepare_repository(arguments: TrainingArguments, card: ModelCard) -> None:
    """Create the repository that `--push_to_hub` asks for, unless it is there, and name it in full in `arguments`.

    Args:
        arguments: With `push_to_hub`.
        card: The model card as far as it is known, whose metadata the Hub is asked about.

    Raises:
        InputError: no token, a wrong one or one that may not write there, a name or metadata that the Hub does not
            take, no connection.
    """
    name = arguments.hub_model_id or Path(arguments.output_dir).absolute().name
    api = HfApi(token=arguments.hub_token)
    try:
        user = api.whoami()["name"]
        check_metadata(card)
        arguments.hub_model_id = create_repository(api, name, user, arguments.hub_private_repo)
    except HFValidationError as error:
        raise InputError(f"--hub_model_id {name}: not a name that the Hub takes; write it as user/model.") from error
    except (HTTPError, OSError) as error:
        raise InputError(f"--push_to_hub: {refusal(error, name, arguments.output_dir)}") from error


def create_repository(api: HfApi, name: str, user: str, private: bool | None) -> str:
    """Create the repository unless it is there, and return its full name. Refuse one that may not be written to."""
    try:
        repository = api.create_repo(name, private=private, exist_ok=True).repo_id
        api.auth_check(repository, write=True)  # one of somebody else passes the line above, if it is there
    except HfHubHTTPError as error:
        if error.response.status_code not in (401, 403, 404):
            raise
        raise InputError(
            f"--hub_model_id {name}: the token of {user} may not write there; give a name of your own, "
            f"{user}/{name.split('/')[-1]}, or a token that may (--hub_token, HF_TOKEN, `hf auth login`)."
        ) from error
    return repository


def check_metadata(card: ModelCard) -> None:
    """Ask the Hub whether it takes the card's metadata: otherwise it refuses the whole upload."""
    # `ModelCard.validate` would do, but asks huggingface.co in older versions, whatever HF_ENDPOINT says.
    question = {"repoType": "model", "content": str(card)}
    response = get_session().post(f"{constants.ENDPOINT}/api/validate-yaml", json=question)
    if response.status_code == 400:
        problems = "; ".join(problem["message"] for problem in response.json()["errors"])
        license, language = card.data.get("license"), card.data.get("language")
        raise InputError(
            f"--license {license}, --language {language}: the Hub does not take the model card's metadata "
            f"({problems}); give a licence such as apache-2.0 and languages such as en."
        )
    hf_raise_for_status(response)


def refusal(error: Exception, name: str, folder: str) -> str:
    """What was wrong when nobody could be asked who may write, and what to do."""
    if isinstance(error, LocalTokenNotFoundError):
        return f"there is no token for {constants.ENDPOINT}; {LOGIN}."
    if isinstance(error, HfHubHTTPError) and error.response.status_code == 401:
        return f"{constants.ENDPOINT} does not take the token that it was given; {LOGIN}."
    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE forbids the network; unset it, or leave --push_to_hub out and publish later."
    return (
        f"{constants.ENDPOINT} cannot be reached ({one_line(error)}); check the network and HF_ENDPOINT, or leave "
        f"--push_to_hub out and publish afterwards with `hf upload {name} {folder}`."
    )


def is_from_the_hub(error: BaseException) -> bool:
    """Whether an error came from the connection to the Hub, wrapped in another or not."""
    return isinstance(error, HTTPError) or isinstance(error.__cause__, HTTPError)


# --- metadata of the model card ----------------------------------------------------------------------------------


def card_metadata(settings: dict, evaluation: dict[str, float], **metadata) -> ModelCardData:
    """What the Hub lists, filters and compares models by.

    Args:
        settings: All options by name.
        evaluation: The metrics of the last evaluation by name; empty if there was none.
        metadata: What goes before the run's own entries, by the names of `ModelCardData`; tags come on top of ours.
    """
    results = eval_results(settings, evaluation)
    entries = {
        "language": settings.get("language") or None,
        "license": settings.get("license"),
        "library_name": "transformers",
        # By fill-mask `pipeline(model=...)` loads the generator, which is not what one wants where there is more.
        "pipeline_tag": "fill-mask" if settings.get("objective") == "generator" else "feature-extraction",
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
    return ModelCardData(**entries | {"tags": [*TAGS, *([tags] if isinstance(tags, str) else tags)]})


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


def eval_results(settings: dict, evaluation: dict[str, float]) -> list[EvalResult]:
    """The figures of an evaluation as entries of the card's `model-index`."""
    paths = settings.get("validation_file") or settings.get("train_file") or []
    names = dataset_names(paths)
    text = short_list(paths)
    return [
        EvalResult(
            task_type=task,
            task_name=task_name,
            dataset_type=names[0] if names else "text",
            dataset_name=text if settings.get("validation_file") else f"{text} (rows held back from training)",
            metric_type=metric,
            metric_name=name.replace("_", " "),
            metric_value=float(evaluation[name]),
        )
        for name, (task, task_name, metric) in RESULTS.items()
        if math.isfinite(evaluation.get(name, math.nan))
    ]
