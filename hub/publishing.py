"""Publishing on the Hub: who may send what is asked before training, because afterwards hours are at stake."""

from pathlib import Path

from huggingface_hub import HfApi, ModelCard, constants, get_session
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, LocalTokenNotFoundError
from huggingface_hub.utils import hf_raise_for_status
from transformers import TrainingArguments

from span_electra.common.errors import InputError, one_line

LOGIN = "log in with `hf auth login`, set HF_TOKEN, or give --hub_token (huggingface.co/settings/tokens makes one)"


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
