"""Read the files that describe a model: configurations that the package ships, yours, and a checkpoint's."""

from importlib.resources import files
from pathlib import Path

from transformers import PreTrainedConfig

from span_electra.common.command_line import load_json, read_settings
from span_electra.common.errors import InputError, as_input_error
from span_electra.common.run_files import without_config


def read_config(name: str) -> dict:
    """The settings in the JSON file `name`, or in the one of that name that the package ships."""
    path = Path(name)
    if not path.is_file():
        folder = Path(str(files("span_electra.configs")))
        shipped = {file.stem: file for file in folder.glob("*.json")}
        if name not in shipped:
            raise InputError(f"--config {name}: no such file, and not one of {', '.join(sorted(shipped))}.")
        path = shipped[name]
    with as_input_error(f"--config {name}"):
        return read_settings(path)


def read_overrides(overrides: str | None) -> dict:
    """The settings in --config_overrides."""
    try:
        settings = load_json(overrides or "{}")
    except ValueError as error:
        raise InputError(
            f"--config_overrides {overrides}: not valid JSON ({error}). Give an object: "
            "'{\"num_hidden_layers\": 6}'."
        ) from error
    if not isinstance(settings, dict):
        raise InputError(
            f"--config_overrides {overrides}: a {type(settings).__name__}; give names with values, as a JSON object."
        )
    return settings


def read_saved(option: str, name: str) -> dict:
    """The settings in a checkpoint's config.json."""
    with as_input_error(f"{option} {name}"):
        settings, _ = PreTrainedConfig.get_config_dict(name)
    if not settings:
        raise InputError(f"{option} {name}: {without_config(name)}")
    return settings
