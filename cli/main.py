"""The command `span-electra`: every subcommand is a module's own command, with its own options and help."""

import difflib
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module

from span_electra import __version__

# By name: the module with its `main`, and what it does. A module is imported when it is asked for, because that may
# take seconds.
COMMANDS = {
    "tokenizer": ("span_electra.tokenization.train_tokenizer", "train a tokenizer on text"),
    "features": ("span_electra.tokenization.create_features", "turn text into rows of token ids, once"),
    "extend": ("span_electra.tokenization.extend_tokenizer", "add the words that a text needs to a model's tokenizer"),
    "pretrain": ("span_electra.run_pretraining", "pretrain an encoder; --plan says what that will cost"),
    "finetune": ("span_electra.run_finetuning", "fine-tune an encoder on a task"),
    "inspect": ("span_electra.inspection.page", "write a page that shows what a model does with a text"),
    "export": ("span_electra.conversion.export", "write a checkpoint's two networks as stock ELECTRA folders"),
    "demo": ("span_electra.cli.demo", "train a tiny model on speeches, and use it"),
}
# The modules whose `parse_arguments` shows the help, where the command itself takes longer to import.
OPTIONS = {
    "pretrain": "span_electra.pretraining.arguments",
    "finetune": "span_electra.finetuning.arguments",
    "inspect": "span_electra.inspection.options",
    "export": "span_electra.conversion.options",
}
LAUNCHED = ("pretrain", "finetune")  # they may run in several processes
NOTE = """`span-electra COMMAND --help` lists a command's options. pretrain and finetune also take those of
`accelerate launch`, such as --num_processes and --config_file."""


def main(arguments: Sequence[str] | None = None) -> None:
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        rows = [f"  {command:<11}{purpose}" for command, (_, purpose) in COMMANDS.items()]
        print("usage: span-electra COMMAND [--option value ...]", "", *rows, "", NOTE, sep="\n")
    elif name == "--version":
        print(__version__)
    elif name not in COMMANDS:
        (close,) = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0)
        print(f"error: {name} is not a command: did you mean {close}? --help lists all commands.", file=sys.stderr)
        sys.exit(2)
    else:
        sys.argv[0] = f"span-electra {name}"  # what the help calls the command
        run(name, rest)


def run(name: str, arguments: Sequence[str]) -> None:
    module, _ = COMMANDS[name]
    if name in OPTIONS and {"-h", "--help"} & {*arguments}:
        import_module(OPTIONS[name]).parse_arguments(["--help"])
    elif name in LAUNCHED:
        from span_electra.cli.launch import launch
        from span_electra.common.errors import InputError, print_error

        try:
            launch(module, import_module(OPTIONS[name]).GROUPS, arguments)
        except InputError as error:
            print_error(error)
            sys.exit(2)
    else:
        from span_electra.common.command_line import run_command

        run_command(partial(import_module(module).main, arguments))


if __name__ == "__main__":
    main()
