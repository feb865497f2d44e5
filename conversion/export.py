"""Write the two halves of a checkpoint as stock ELECTRA folders, for places where no custom code may run.

    python -m span_electra.conversion.export my_model --output_dir my_model_stock

`my_model_stock/discriminator` is the encoder to fine-tune; `my_model_stock/generator` fills masks.
"""

import argparse
import json
from pathlib import Path

from transformers import AutoTokenizer, ElectraForPreTraining

from span_electra.common.command_line import run_command
from span_electra.common.errors import InputError, as_input_error
from span_electra.common.output_folder import atomic_folder, check_output_dir
from span_electra.common.run_files import without_config
from span_electra.configuration_span_electra import SpanElectraConfig
from span_electra.conversion.warm_start import load_whole
from span_electra.modeling_span_electra import SpanElectraForPreTraining

WRITTEN = ("discriminator", "generator")


def export(checkpoint: str | Path, output_dir: str | Path, overwrite: bool = False) -> None:
    """Write `output_dir/discriminator` and `output_dir/generator`, each with the checkpoint's tokenizer.

    Args:
        checkpoint: folder or Hub name of a SpanElectra pretraining checkpoint.
        output_dir: a new or empty folder.
        overwrite: replace an earlier export there.

    Raises:
        InputError: no such checkpoint, one of a generator alone or without some of its weights, or `output_dir` holds
            something else.
    """
    output_dir = Path(output_dir)
    check_output_dir(output_dir, "an export", WRITTEN, "discriminator", overwrite)
    model = load_checkpoint(checkpoint)
    if model.config.discriminator_is_untrained:
        raise InputError(
            f"{checkpoint}: only its generator was trained, so there is no discriminator to export. Train one by "
            f"run_pretraining.py --objective discriminator --generator {checkpoint}."
        )
    with as_input_error(f"The tokenizer in {checkpoint}", "Save one beside the model by tokenizer.save_pretrained."):
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    discriminator = ElectraForPreTraining(model.config.discriminator_config()).to(model.dtype)  # type: ignore[arg-type]
    weights = model.state_dict()
    discriminator.load_state_dict({name: weights[name] for name in discriminator.state_dict()})
    with atomic_folder(output_dir) as folder:
        for name, half in zip(WRITTEN, (discriminator, model.generator), strict=True):
            half.save_pretrained(folder / name)
            tokenizer.save_pretrained(folder / name)
            name_tokenizer_class(folder / name / "tokenizer_config.json")


def name_tokenizer_class(path: Path) -> None:
    """Call the tokenizer's class as Transformers 4 does, which has no `TokenizersBackend`; 5 knows both names."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_checkpoint(checkpoint: str | Path) -> SpanElectraForPreTraining:
    with as_input_error(str(checkpoint)):
        settings, _ = SpanElectraConfig.get_config_dict(checkpoint)
        saved_as = settings.get("architectures") or [settings.get("model_type")]
        if SpanElectraForPreTraining.__name__ in saved_as:
            return load_whole(SpanElectraForPreTraining, checkpoint)[0]
    if not settings:
        raise InputError(f"{checkpoint}: {without_config(checkpoint)}")
    raise InputError(
        f"{checkpoint}: was saved as {saved_as[0]}, which has no generator; give a checkpoint that "
        f"run_pretraining.py wrote ({SpanElectraForPreTraining.__name__})."
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m span_electra.conversion.export", description=__doc__.splitlines()[0]
    )
    parser.add_argument("checkpoint", help="a pretraining checkpoint: folder or Hub name")
    parser.add_argument("--output_dir", required=True, help="a new or empty folder")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export there")
    arguments = parser.parse_args()
    run_command(lambda: export(arguments.checkpoint, arguments.output_dir, arguments.overwrite))
    for name in WRITTEN:
        print(Path(arguments.output_dir) / name)


if __name__ == "__main__":
    main()
