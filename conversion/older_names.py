"""Read older configuration files: rename their settings, and separate those that describe the data."""

from typing import Any, NamedTuple

ALIASES = {
    "max_span_len": "max_span_length",
    "use_SBGO": "use_sbgo",
    "use_SBPO": "use_sbpo",
    "max_seq_len": "max_position_embeddings",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "ffn_size": "intermediate_size",
}
# A prefix is replaced, and the rest of the name is renamed as above.
ALIAS_PREFIXES = {"disc_": "", "discriminator_": "", "gen_": "generator_"}

# Settings of the data -> the script's option. `max_seq_len` is also the number of positions.
DATA_ALIASES = {"mask_ratio": "mask_ratio", "max_seq_len": "max_seq_length", "max_seq_length": "max_seq_length"}

# Token ids -> the token's role in the tokenizer.
TOKENIZER_ALIASES = {f"{role}_id": role for role in ("cls", "sep", "pad", "mask", "unk")}


class SplitSettings(NamedTuple):
    """The settings of a configuration file under today's names."""

    model: dict[str, Any]  # for `SpanElectraConfig`
    data: dict[str, Any]  # `mask_ratio` and `max_seq_length`, if the file holds them
    token_ids: dict[str, Any]  # a token's role -> its id


def current_name(name: str) -> str:
    """Return today's name of a model's setting."""
    for prefix, replacement in ALIAS_PREFIXES.items():
        if name.startswith(prefix):
            rest = name.removeprefix(prefix)
            return replacement + ALIASES.get(rest, rest)
    return ALIASES.get(name, name)


def split_data_settings(settings: dict[str, Any]) -> SplitSettings:
    """Rename the settings of a configuration file and separate the model's from the data's."""
    data = {DATA_ALIASES[name]: value for name, value in settings.items() if name in DATA_ALIASES}
    token_ids = {TOKENIZER_ALIASES[name]: value for name, value in settings.items() if name in TOKENIZER_ALIASES}
    model: dict[str, Any] = {}
    given_as: dict[str, str] = {}
    for name, value in settings.items():
        if name in TOKENIZER_ALIASES or name in DATA_ALIASES:
            continue
        today = current_name(name)
        other = given_as.setdefault(today, name)
        if model.setdefault(today, value) != value:
            raise ValueError(
                f"{other} is {model[today]!r} and {name} is {value!r}, but both name one setting; leave one out"
            )
    if "max_seq_len" in settings:
        # A model may have room for longer rows than the file asks for.
        model.setdefault("max_position_embeddings", settings["max_seq_len"])
    return SplitSettings(model, data, token_ids)
