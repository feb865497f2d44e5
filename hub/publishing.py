"""Publish on the Hub. Permission is checked before training, because a failure afterwards would cost hours."""

import json
import logging
import re
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, ModelCard, constants, get_session
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, LocalTokenNotFoundError
from huggingface_hub.utils import hf_raise_for_status
from transformers import TrainingArguments
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.trainer_utils import HubStrategy
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from span_electra.common.errors import InputError, one_line
from span_electra.common.run_files import ARGUMENTS, CARD, CURVES, HISTORY, step_of, without_config
from span_electra.encoders.configuration_span_encoder import GENERATOR_FOLDER, PRETRAINING_FOLDER
from span_electra.modeling_span_electra import __file__ as MODEL_CODE

logger = logging.getLogger(__name__)

# The files that tokenizers of any kind save. Patterns would also match your notes of a similar name.
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "vocab.txt", "vocab.json", "merges.txt", "spiece.model", "spm.model"),
    *("sentencepiece.bpe.model", "tokenizer.model"),
)
STEP = re.compile("step-[0-9]+")  # the revision of a checkpoint
LOGIN = "log in with `hf auth login`, set HF_TOKEN, or give --hub_token (huggingface.co/settings/tokens makes one)"


class PublishingError(RuntimeError):
    """An upload failed after training. The trained model is on the disk."""


def prepare_repository(arguments: TrainingArguments, card: ModelCard, resumes: bool = False) -> None:
    """Create the repository for `--push_to_hub` unless it exists, and set its full name in `arguments`.

    Args:
        arguments: The arguments of a run with `push_to_hub`.
        card: The model card so far, whose metadata the Hub checks.
        resumes: Whether the run resumes an earlier one, whose checkpoints may be revisions already.

    Raises:
        InputError: There is no token, no permission or no connection, the Hub rejects the name or the metadata, or
            the repository has the checkpoints of another run.
    """
    name = arguments.hub_model_id or Path(arguments.output_dir).absolute().name
    api = HfApi(token=arguments.hub_token)
    try:
        user = api.whoami()["name"]
        check_metadata(card)
        arguments.hub_model_id = create_repository(api, name, user, arguments.hub_private_repo)
        if arguments.hub_strategy == HubStrategy.ALL_CHECKPOINTS and not resumes:
            refuse_steps(api, arguments.hub_model_id)
    except HFValidationError as error:
        raise InputError(f"--hub_model_id {name}: not a name that the Hub accepts; write it as user/model.") from error
    except (HTTPError, OSError) as error:
        raise InputError(f"--push_to_hub: {refusal(error, name, arguments.output_dir)}") from error


def create_repository(api: HfApi, name: str, user: str, private: bool | None) -> str:
    """Create the repository unless it exists, and return its full name. Refuse one that the token cannot write to."""
    try:
        repository = api.create_repo(name, private=private, exist_ok=True).repo_id
        api.auth_check(repository, write=True)  # the line above accepts an existing one of somebody else
    except HfHubHTTPError as error:
        if error.response.status_code not in (401, 403, 404):
            raise
        raise InputError(
            f"--hub_model_id {name}: the token of {user} may not write there; give {user}/{name.split('/')[-1]}, or a "
            "token that may (--hub_token, HF_TOKEN, `hf auth login`)."
        ) from error
    return repository


def refuse_steps(api: HfApi, repository: str) -> None:
    """Refuse a repository in which a run's checkpoints are revisions: those of another run may have the same steps."""
    refs = api.list_repo_refs(repository)
    if taken := [ref.name for ref in (*refs.tags, *refs.branches) if STEP.fullmatch(ref.name)]:
        raise InputError(
            f"--hub_model_id {repository}: has the checkpoints of another run ({', '.join(taken[:3])}). Give "
            "a repository of its own, resume that run, or publish only the last model with --hub_strategy every_save."
        )


def tag_checkpoint(checkpoint: Path, repository: str, upload: Future[CommitInfo], token: str | None = None) -> None:
    """Make the commit of a checkpoint's upload the revision `step-N`, unless there is one with that name."""
    api, tag = HfApi(token=token), f"step-{step_of(checkpoint)}"
    names = [path.relative_to(checkpoint).as_posix() for path in published_files(checkpoint)]

    def content(revision: str) -> set[tuple[str, str]]:
        return {(file.path, file.blob_id) for file in api.get_paths_info(repository, names, revision=revision)}

    try:
        commit = upload.result().oid
        try:
            api.create_tag(repository, tag=tag, revision=commit)
        except HfHubHTTPError as error:
            if error.response.status_code != 409:
                raise
            if content(tag) != content(commit):
                logger.warning(
                    f"{repository} already has a revision {tag}, which holds another model. It stays as it is, and "
                    f"{checkpoint} is not published under that name. Give a new repository as --hub_model_id to "
                    "publish both."
                )
    except Exception as error:  # whatever it is, nobody looks at what fails in the background
        logger.warning(f"{checkpoint} was not published as the revision {tag} of {repository} ({one_line(error)}).")


def push_run(
    folder: str | Path,
    repo_id: str,
    *,
    tags: str | Sequence[str] | None = None,
    private: bool | None = None,
    token: str | None = None,
) -> CommitInfo:
    """Publish the folder of a run, or one of its checkpoints, as a model that loads without this package.

    One commit holds weights, configuration, modelling code, tokenizer, model card, history, curves and the run's
    options, and nothing else from the folder.

    Args:
        folder: The folder of a run, or any other that holds a model.
        repo_id: The repository's name, `user/model` or `model`. It is created if it does not exist.
        tags: Added to those of the model card.
        private: Whether a new repository is private. Default: the setting of your account or organisation.
        token: Default: the one that you logged in with.

    Raises:
        InputError: The folder holds no model, or the token may not write to the repository.

    Example:

    ```python
    push_run("out", "ada/spans", tags=["my-corpus"])
    ```
    """
    folder = Path(folder)
    if not (folder / CONFIG_NAME).is_file():
        raise InputError(f"{folder}: {without_config(folder)}")
    api = HfApi(token=token)
    repository = create_repository(api, repo_id, api.whoami()["name"], private)
    files: dict[str, Path | bytes] = {path.relative_to(folder).as_posix(): path for path in published_files(folder)}
    if CARD in files and tags:
        card = ModelCard.load(folder / CARD)
        earlier = card.data.tags or []
        card.data.tags = [
            *earlier,
            *(tag for tag in ([tags] if isinstance(tags, str) else tags) if tag not in earlier),
        ]
        files[CARD] = str(card).encode()
    operations = [CommitOperationAdd(name, content) for name, content in files.items()]
    return api.create_commit(repository, operations, commit_message="Upload a SpanElectra model")


def published_files(folder: Path) -> list[Path]:
    """Return those files of a folder that are published."""
    names = [CONFIG_NAME, SAFE_WEIGHTS_NAME, *TOKENIZER_FILES, CARD, HISTORY, CURVES, ARGUMENTS]
    for part in (GENERATOR_FOLDER, PRETRAINING_FOLDER):  # of a pair of stock encoders
        names += [f"{part}/{name}" for name in (CONFIG_NAME, SAFE_WEIGHTS_NAME, *TOKENIZER_FILES)]
    names += [Path(path).name for path in (MODEL_CODE, *get_relative_import_files(MODEL_CODE))]
    if (index := folder / SAFE_WEIGHTS_INDEX_NAME).is_file():
        names += [index.name, *set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())]
    return [folder / name for name in names if (folder / name).is_file()]


def check_metadata(card: ModelCard) -> None:
    """Ask the Hub whether it accepts the card's metadata. If not, it would reject the whole upload."""
    # In older versions `ModelCard.validate` asks huggingface.co, whatever HF_ENDPOINT says.
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
    """Say why the Hub could not be asked for permission, and what to do."""
    if isinstance(error, LocalTokenNotFoundError):
        return f"there is no token for {constants.ENDPOINT}; {LOGIN}."
    if isinstance(error, HfHubHTTPError) and error.response.status_code == 401:
        return f"{constants.ENDPOINT} rejects the token; {LOGIN}."
    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE is set; unset it, or leave --push_to_hub out and publish later."
    return (
        f"{constants.ENDPOINT} cannot be reached ({one_line(error)}); check the network and HF_ENDPOINT, or leave "
        f"--push_to_hub out and publish afterwards with `hf upload {name} {folder}`."
    )


def is_from_the_hub(error: BaseException) -> bool:
    """Return whether an error, or its cause, came from the connection to the Hub."""
    return isinstance(error, HTTPError) or isinstance(error.__cause__, HTTPError)
