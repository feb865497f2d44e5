"""Write the two halves of a checkpoint as stock ELECTRA folders, for use where custom code cannot run.

    python -m span_electra.conversion.export my_model --output_dir my_model_stock

`my_model_stock/discriminator` is the encoder to fine-tune; `my_model_stock/generator` fills masks.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer, ElectraForPreTraining, PreTrainedModel

from span_electra.common.command_line import run_command
from span_electra.common.errors import InputError, as_input_error
from span_electra.common.output_folder import atomic_folder, check_output_dir
from span_electra.common.run_files import without_config
from span_electra.configuration_span_electra import SpanElectraConfig
from span_electra.conversion.options import parse_arguments
from span_electra.conversion.warm_start import load_whole
from span_electra.encoders.configuration_span_encoder import GENERATOR_FOLDER, is_saved_pair
from span_electra.modeling_span_electra import SpanElectraForMaskedLM, SpanElectraForPreTraining

logger = logging.getLogger(__name__)

HALVES = ("discriminator", "generator")


def export(checkpoint: str | Path, output_dir: str | Path, overwrite: bool = False) -> list[Path]:
    """Write `output_dir/discriminator` and `output_dir/generator`, each with the checkpoint's tokenizer.

    If the checkpoint's discriminator was never trained, only the generator is written, with a warning.

    Args:
        checkpoint: Folder or Hub name of a SpanElectra pretraining checkpoint, or of a generator that was saved alone.
        output_dir: A new or empty folder.
        overwrite: Replace an earlier export there.

    Returns:
        The folders that were written.

    Raises:
        InputError: There is no such checkpoint, it lacks weights or a tokenizer, or `output_dir` holds something else.
    """
    output_dir = Path(output_dir)
    check_output_dir(output_dir, "an export", HALVES, "generator", overwrite)
    halves = load_halves(checkpoint)
    with as_input_error(f"The tokenizer in {checkpoint}", "Save one beside the model with tokenizer.save_pretrained."):
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    if "discriminator" not in halves:
        logger.warning(
            f"{checkpoint}: only its generator was trained, so there is no discriminator to export. Train one with "
            f"run_pretraining.py --objective discriminator --generator {checkpoint}."
        )
    with atomic_folder(output_dir) as folder:
        for name, model in halves.items():
            model.save_pretrained(folder / name)
            tokenizer.save_pretrained(folder / name)
            write_for_version_4(folder / name / "tokenizer_config.json")
    return [output_dir / name for name in halves]


def load_halves(checkpoint: str | Path) -> dict[str, PreTrainedModel]:
    """Return the trained halves of a checkpoint as stock models, by name."""
    with as_input_error(str(checkpoint)):
        settings, _ = SpanElectraConfig.get_config_dict(checkpoint)
        if not settings:
            raise InputError(f"{checkpoint}: {without_config(checkpoint)}")
        saved_as = (settings.get("architectures") or [settings.get("model_type")])[0]
        if saved_as == SpanElectraForMaskedLM.__name__:
            return {"generator": load_whole(SpanElectraForMaskedLM, checkpoint)[0].generator}
        if is_saved_pair(checkpoint):
            raise InputError(
                f"{checkpoint}: needs no export. It is a stock {saved_as} already, and the generator is in its folder "
                f"{GENERATOR_FOLDER}/."
            )
        if saved_as != SpanElectraForPreTraining.__name__:
            raise InputError(
                f"{checkpoint}: was saved as {saved_as}, which has no generator. Give a checkpoint that "
                f"run_pretraining.py wrote ({SpanElectraForPreTraining.__name__})."
            )
        model = load_whole(SpanElectraForPreTraining, checkpoint)[0]
    if model.config.discriminator_is_untrained:
        return {"generator": model.generator}
    return {"discriminator": stock_discriminator(model), "generator": model.generator}


def stock_discriminator(model: SpanElectraForPreTraining) -> ElectraForPreTraining:
    discriminator = ElectraForPreTraining(model.config.discriminator_config()).to(model.dtype)  # type: ignore[arg-type]
    weights = model.state_dict()
    discriminator.load_state_dict({name: weights[name] for name in discriminator.state_dict()})
    return discriminator


def write_for_version_4(path: Path) -> None:
    """Rewrite a tokenizer_config.json with names that Transformers 4 and 5 both read."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    if settings["tokenizer_class"] == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    # In version 4 `extra_special_tokens` maps names to tokens, and a list is an error.
    if unnamed := settings.pop("extra_special_tokens", None):
        settings["additional_special_tokens"] = unnamed
    if named := settings.pop("model_specific_special_tokens", None):
        settings["extra_special_tokens"] = named
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_arguments(arguments)
    written: list[Path] = []
    run_command(lambda: written.extend(export(options.checkpoint, options.output_dir, options.overwrite)))
    print(*written, sep="\n")


if __name__ == "__main__":
    main()
