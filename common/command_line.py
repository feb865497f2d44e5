"""Parse options and recipes, and run commands."""

import difflib
import json
import re
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, get_args, get_type_hints

import yaml
from transformers import HfArgumentParser
from transformers.hf_argparser import HfArg

from span_electra.common.errors import (
    InputError,
    first_line,
    one_line,
    paths_as_input_errors,
    print_error,
    unusable_path,
)

RECIPE_SUFFIXES = (".yaml", ".yml", ".json")
SHIPPED_RECIPES = {path.name: str(path) for path in (files("span_electra.configs") / "recipes").iterdir()}


def option(default: Any, help: str, **settings: Any) -> Any:
    """Declare an option as a field of a dataclass. A default of `list` makes an empty list."""
    return HfArg(help=help, **{"default_factory" if default is list else "default": default}, **settings)


def parse_options(
    groups: Sequence[type],
    arguments: Sequence[str],
    description: str,
    alternatives: frozenset[str] = frozenset(),
) -> tuple:
    """Parse `[recipe.yaml] [--option value ...]`. An option on the command line wins over the recipe.

    Args:
        groups: Dataclasses whose fields are the options.
        arguments: The command line without the script's name.
        description: What the script does, for the help.
        alternatives: Options that exclude each other. One on the command line replaces any of them in the recipe.

    Returns:
        An instance of each group.
    """
    parser = HfArgumentParser(
        groups,  # type: ignore[arg-type]
        usage="%(prog)s [recipe.yaml] [--option value ...]",
        description=f"{description} A recipe is a YAML or JSON file that holds options, or the name of one that comes "
        f"with the package: {', '.join(sorted(SHIPPED_RECIPES))}.",
        allow_abbrev=False,
    )
    arguments = list(arguments)
    if arguments and not arguments[0].startswith("-"):
        recipe = read_recipe(arguments.pop(0), groups)
        given = {argument.partition("=")[0].lstrip("-").replace("-", "_") for argument in arguments}
        parser.set_defaults(**{n: v for n, v in recipe.items() if n not in alternatives or not given & alternatives})
    try:
        *parsed, unknown = parser.parse_args_into_dataclasses(
            arguments, return_remaining_strings=True, look_for_args_file=False
        )
    except OSError as error:
        raise unusable_path(error) from error
    except json.JSONDecodeError as error:
        raise InputError(f"{error.doc}: not valid JSON ({error}).") from error
    except (ImportError, TypeError, ValueError) as error:  # the Trainer's own checks
        raise InputError(f"{one_line(error)}.") from error
    if unknown:
        raise InputError(unknown_option(unknown[0].split("=")[0], groups))
    return tuple(parsed)


def read_recipe(path: str, groups: Sequence[type]) -> dict:
    """Read the options in a recipe, and check their names."""
    if Path(path).suffix not in RECIPE_SUFFIXES:
        raise InputError(
            f"{path}: neither an option, which begins with --, nor a recipe ({', '.join(RECIPE_SUFFIXES)})."
        )
    if not Path(path).exists():
        path = SHIPPED_RECIPES.get(path, path)
    recipe, types = read_settings(path, load_recipe), option_types(groups)
    for name in recipe.keys() - types.keys():
        raise InputError(f"{path}: {unknown_option(name, groups)}")
    return {name: recipe_value(path, name, value, types[name]) for name, value in recipe.items()}


def recipe_value(path: str, name: str, value: object, accepted: object) -> object:
    """Turn a recipe's value into command line text, so that both are converted and checked alike."""
    has_numbers = accepted == list[float]
    if has_numbers and not isinstance(value, list):
        value = [value]
    if isinstance(value, list):
        if "list" not in str(accepted):
            raise InputError(f"{path}: {name} is a list, {value}; give one value.")
        for item in value:
            if item is None or isinstance(item, (list, dict)):
                raise InputError(f"{path}: {name} holds {json.dumps(item)}; give a list of words or numbers.")
        return [as_number(path, name, item) if has_numbers else str(item) for item in value]
    if value is None:
        if type(None) not in get_args(accepted):
            raise InputError(f"{path}: {name} has no value; give one, or leave it out.")
        return None
    if bool in (accepted, *get_args(accepted)):
        value = yaml.SafeLoader.bool_values.get(str(value).lower(), value)  # it knows `on` and `off`
    text = json.dumps(value) if isinstance(value, dict) else str(value)
    return [text] if accepted == list[str] else text


def as_number(path: str, name: str, value: object) -> float:
    try:
        return float(str(value))
    except ValueError as error:
        raise InputError(f"{path}: {name} holds {value}; give numbers.") from error


class SettingsLoader(yaml.SafeLoader):
    """Loads YAML in which 1e-7 is a number, as in YAML 1.2, and refuses names that are given twice."""

    def compose_mapping_node(self, anchor):
        node = super().compose_mapping_node(anchor)
        refuse_repeated([str(name.value) for name, _ in node.value])
        return node


SettingsLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+"),
    list("-+.0123456789"),
)


def load_recipe(text: str) -> object:
    """Read a recipe with its values as they are written: `no` is Norwegian, and 0123 is not 83.

    Only values in a mapping have their types, and only a missing value is None.
    """
    typed = load_yaml(text)
    if not isinstance(typed, dict):
        return typed
    written = yaml.load(text, yaml.BaseLoader)
    return written | {name: value for name, value in typed.items() if value is None or isinstance(value, dict)}


def load_yaml(text: str) -> object:
    return yaml.load(text, SettingsLoader)


def load_json(text: str) -> object:
    """Read JSON. A name that is given twice is a ValueError too."""

    def once(pairs: list[tuple[str, object]]) -> dict:
        refuse_repeated([name for name, _ in pairs])
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=once)
    except RecursionError as error:
        raise ValueError(str(error)) from error


def refuse_repeated(names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name} is given twice")


def read_settings(path: str | Path, read_yaml: Callable[[str], object] = load_yaml) -> dict:
    """Read the mapping in a YAML or JSON file."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        settings = load_json(text) if Path(path).suffix == ".json" else read_yaml(text)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not valid {Path(path).suffix[1:].upper()} ({first_line(error)}).") from error
    if not isinstance(settings, dict):
        raise InputError(f"{path}: holds a {type(settings).__name__}; give names with values.")
    return settings


def check_positive(group: object, *names: str) -> None:
    """Refuse counts below 1."""
    for name in names:
        value = getattr(group, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} is {value}; it must be at least 1.")


def option_types(groups: Sequence[type]) -> dict[str, object]:
    # For a field of several types the parser stores only the first, so the hints are read instead.
    types = {name: kind for group in groups for name, kind in get_type_hints(group).items()}
    return {option.name: types[option.name] for group in groups for option in fields(group) if option.init}


def unknown_option(name: str, groups: Sequence[type]) -> str:
    close = difflib.get_close_matches(name.lstrip("-").replace("-", "_"), option_types(groups), n=1)
    hint = f"did you mean {'--' if name.startswith('-') else ''}{close[0]}?" if close else "--help lists all options."
    return f"{name} is not an option: {hint}"


def run_command(command: Callable[[], None]) -> None:
    """Run a command. SIGTERM ends it like Ctrl-C, so that it removes unfinished output."""
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        with paths_as_input_errors():
            command()
    except InputError as error:
        print_error(error)
        sys.exit(2)
    except Exception as error:
        if isinstance(error.__context__, SystemExit):  # with workers, `datasets` raises a TimeoutError
            raise error.__context__ from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)  # the exit status of a process that a signal ended
