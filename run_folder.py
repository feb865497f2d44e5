"""The folder of a run: whether it may be used, which checkpoint to go on from, and what an earlier run left there."""

import errno
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from accelerate.utils import gather_object
from accelerate.utils.constants import FSDP_MODEL_NAME
from filelock import FileLock, Timeout
from transformers import TrainingArguments
from transformers.utils import CONFIG_NAME

from span_electra.checkpoint_folders import ASIDE, find_checkpoint, remove, sealed_facts
from span_electra.configuration_span_electra import ENCODER_SHAPE, SpanElectraConfig
from span_electra.errors import InputError
from span_electra.reporting import CARD, CURVES, HISTORY
from span_electra.span_sampling import MASKING_VERSION

logger = logging.getLogger(__name__)

ARGUMENTS = "arguments.json"  # written first: by it a folder is known to be a run's
IGNORED = ".gitignore"  # what of the folder is not published: the Hub's clients and git go by it
LOCK = ".lock"
LOCK_SECONDS = 10  # the data workers of a run that was killed hold its lock until they see that it is gone
# From the start; the last two are half a save and a tracker's.
HELD_BY_ANY_RUN = {ARGUMENTS, IGNORED, ASIDE, "runs"}
# What a checkpoint and the model to go on with must have in common.
SHAPE = (*ENCODER_SHAPE, *(f"generator_{name}" for name in ENCODER_SHAPE), "vocab_size", "embedding_size")
SHAPE += ("max_position_embeddings", "type_vocab_size", "max_span_length", "boundary_position_size")
SHAPE += ("embedding_sharing", "share_encoder", "use_sbgo", "use_sbpo", "objective")
SHAPE += ("hidden_act", "layer_norm_eps", "pad_token_id")
# And two runs, beside `run_facts`: how they mask.
MASKING = ("mask_ratio", "max_span_words", "whole_words")
WHY_THE_SAME = {"optim": "its state would not fit"} | dict.fromkeys(MASKING, "it would mask in another way")
# Checkpoints hold the optimizer, and to load pickled arguments is to run them.
NOT_PUBLISHED = ("checkpoint-*/", f"{ASIDE}/", "runs/", "training_args.bin", LOCK)
# All that a run writes, as globs; --overwrite_output_dir removes nothing else.
WRITTEN = ("checkpoint-*", ASIDE, "runs", "*.safetensors", "config.json", HISTORY, CURVES, CARD)


def check_run_folder(output_dir: str, resume: str | None, overwrite: bool) -> Path | None:
    """Refuse a folder that holds something else, and return the checkpoint to go on from, if one is asked for.

    Args:
        output_dir: Where the run is to write.
        resume: A checkpoint's folder, "true" for the newest in `output_dir`, None or "false" to start anew.
        overwrite: Whether an earlier run in `output_dir` may be replaced.

    Raises:
        InputError: if the folder cannot be used as asked, or there is no such checkpoint.
    """
    folder = Path(output_dir)
    names = names_in_run(folder, ARGUMENTS)
    resume = None if resume is None or str(resume).lower() == "false" else str(resume)
    if set(names) <= HELD_BY_ANY_RUN:
        names = []  # a run that ended before it had anything to keep
    if names and resume is None and not overwrite:
        raise InputError(
            f"--output_dir {folder}: already holds a run; go on with it by --resume_from_checkpoint true, replace it "
            "by --overwrite_output_dir, or give another folder."
        )
    if resume is not None and overwrite:
        raise InputError("--resume_from_checkpoint and --overwrite_output_dir exclude each other; give one.")
    if resume is None:
        return None
    if resume.lower() == "true" and not names:
        logger.warning(f"--resume_from_checkpoint true: {folder} holds no checkpoint yet, so the run begins anew.")
        return None
    checkpoint = find_checkpoint(folder, resume)
    if names and checkpoint.parent.resolve() != folder.resolve():
        raise InputError(
            f"--resume_from_checkpoint {resume}: is not of the run in --output_dir {folder}, which would be written "
            "over; give a new folder, or a checkpoint of that run."
        )
    return checkpoint


def check_folder(output_dir: str, marker: str, overwrite: bool) -> None:
    """The same for a script whose runs cannot be resumed; `marker` is the file by which its folders are known."""
    names = names_in_run(Path(output_dir), marker)
    if not set(names) <= {marker, IGNORED} and not overwrite:
        raise InputError(
            f"--output_dir {output_dir}: already holds a run; replace it by --overwrite_output_dir, or give another "
            "folder."
        )


def names_in_run(folder: Path, marker: str) -> list[str]:
    """What is in `folder`, which must be new, empty, or an earlier run of the script that leaves `marker`."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output_dir {folder}: is a file; give a new or empty folder.")
    names = sorted(path.name for path in folder.iterdir() if path.name != LOCK) if folder.is_dir() else []
    if names and marker not in names:
        raise InputError(
            f"--output_dir {folder}: already holds something that is not a run of this script "
            f"({', '.join(names[:3])}); give a new or empty folder."
        )
    return names


def check_same_run(checkpoint: Path, facts: dict) -> None:
    """Refuse to resume where the rows still to come would be others than those the run has not seen, or masked in
    another way, or where the optimizer is another.

    Args:
        checkpoint: The one to go on from.
        facts: This run's `run_facts`, and its options of `MASKING`.
    """
    saved_facts = sealed_facts(checkpoint)
    if saved_facts.setdefault("masking_version", 1) != MASKING_VERSION:
        raise InputError(
            f"--resume_from_checkpoint {checkpoint}: was written by a version of this package that masks in another "
            "way. Resume with that version, or begin a run of its own with --model_name_or_path "
            f"{checkpoint}."
        )
    for name, saved in saved_facts.items():
        if facts[name] != saved:
            why = WHY_THE_SAME.get(name, "some rows would come twice and others not at all")
            raise InputError(
                f"--resume_from_checkpoint {checkpoint}: its run had {name} {saved}, this one {facts[name]}: "
                f"{why}. Resume as it began (rows_per_update is processes x per_device_train_batch_size x "
                "gradient_accumulation_steps; of rows on disk only the product must stay), or begin a run of its own "
                f"with --model_name_or_path {checkpoint}."
            )


def check_same_checkpoint(checkpoint: Path | None) -> None:
    """Refuse to go on where the processes, which may be on several machines, do not all find it."""
    found = gather_object([checkpoint and checkpoint.name])
    if len(set(found)) > 1:
        raise InputError(
            f"--resume_from_checkpoint: the processes find different checkpoints ({', '.join(map(str, found))}); give "
            "an --output_dir that all machines share."
        )


def check_sharding(checkpoint: Path, is_sharded: bool) -> None:
    """Refuse to resume a run that FSDP sharded without it, or another with it: the optimizer's state would not fit."""
    was_sharded = (checkpoint / f"{FSDP_MODEL_NAME}.bin").exists()
    if was_sharded != is_sharded:
        was, this = (("with" if sharded else "without") for sharded in (was_sharded, is_sharded))
        raise InputError(
            f"--resume_from_checkpoint {checkpoint}: was written {was} FSDP, and this run is {this} it. Resume as it "
            f"began, or begin a run of its own with --model_name_or_path {checkpoint}."
        )


def check_shape(checkpoint: Path, config: SpanElectraConfig) -> None:
    """Refuse to resume with a model of another shape than the checkpoint's."""
    if not (checkpoint / CONFIG_NAME).is_file():
        raise InputError(f"--resume_from_checkpoint {checkpoint}: holds no model; give another checkpoint.")
    saved = SpanElectraConfig.from_pretrained(checkpoint)
    for name in SHAPE:
        if getattr(saved, name) != getattr(config, name):
            raise InputError(
                f"--resume_from_checkpoint {checkpoint}: its {name} is {getattr(saved, name)}, this run's is "
                f"{getattr(config, name)}; resume with the configuration that the run began with."
            )


@contextmanager
def started(arguments: TrainingArguments, marker: str, seen: list[str], start: Callable[[], None]) -> Iterator[None]:
    """Begin a run in `arguments.output_dir` by `start`, which the process that writes calls; inside, no other run may.

    Args:
        seen: `names_in_run` when the folder was found to be usable. What came since, another run left there.

    Raises:
        InputError: if another run writes or has written there, or nobody can.
    """
    with ExitStack() as stack:
        with arguments.main_process_first(desc="the run's folder"):
            if arguments.should_save:
                folder = Path(arguments.output_dir)
                stack.enter_context(sole_writer(folder))
                if names_in_run(folder, marker) != seen:
                    raise InputError(
                        f"--output_dir {folder}: another run has written there since this one began; give the same "
                        "command again."
                    )
                start()
        yield


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / LOCK, timeout=LOCK_SECONDS)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise InputError(
            f"--output_dir {folder}: another run is writing there; wait for its end, stop it, or give another folder."
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
            raise InputError(f"--output_dir {folder}: cannot be written to ({error}); give another folder.") from error
        logger.warning(f"--output_dir {folder}: its file system has no locks, so nothing keeps a second run out.")
    try:
        yield
    finally:
        lock.release()


def start_run(output_dir: str, settings: dict, resumes: bool) -> None:
    """Mark the folder as a run's. What an earlier run left there goes, unless this one resumes it."""
    wanted = "checkpoint-*/" if settings.get("hub_strategy") == "all_checkpoints" else None
    ignored = [pattern for pattern in NOT_PUBLISHED if pattern != wanted]
    start_folder(output_dir, ARGUMENTS, settings, () if resumes else WRITTEN, ignored)


def start_folder(
    output_dir: str, marker: str, settings: dict, written: Sequence[str], not_published: Sequence[str]
) -> None:
    """Remove what an earlier run left there, by the globs in `written`; leave the settings as `marker`, and word for
    those who publish the folder of what to leave out."""
    folder = Path(output_dir)
    for path in [path for pattern in written for path in folder.glob(pattern)]:
        remove(path)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / marker).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    (folder / IGNORED).write_text("".join(f"{pattern}\n" for pattern in not_published), encoding="utf-8")
