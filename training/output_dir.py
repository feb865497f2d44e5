"""A run's `output_dir`: check it, lock it, and remove what an earlier run left."""

import errno
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from transformers import TrainingArguments

from span_electra.common.errors import InputError
from span_electra.common.output_folder import names_of_earlier_output, remove
from span_electra.common.run_files import ARGUMENTS, CARD, CURVES, HISTORY, SAMPLES
from span_electra.encoders.configuration_span_encoder import GENERATOR_FOLDER, PRETRAINING_FOLDER
from span_electra.training.checkpoint_folders import ASIDE, find_checkpoint

logger = logging.getLogger(__name__)
IGNORED = ".gitignore"  # tells git and the Hub's clients what not to publish
LOCK = ".lock"
LOCK_SECONDS = 10  # a killed run's data workers hold its lock until they notice that it has ended

# In a run's folder before its first checkpoint. The last two are an unfinished save's and a tracker's.
HELD_BY_ANY_RUN = {ARGUMENTS, IGNORED, ASIDE, "runs"}

# Checkpoints hold the optimizer, loading pickled arguments runs code, and samples show your text.
NOT_PUBLISHED = ("checkpoint-*/", f"{ASIDE}/", "runs/", "training_args.bin", SAMPLES, LOCK)

# Everything that a run writes, as globs. --overwrite_output_dir removes nothing else.
WRITTEN = (
    *("checkpoint-*", ASIDE, "runs", "*.safetensors", "config.json", HISTORY, CURVES, CARD, SAMPLES),
    *(GENERATOR_FOLDER, PRETRAINING_FOLDER),
)


def check_run_folder(output_dir: str, resume: str | None, overwrite: bool) -> Path | None:
    """Refuse a folder that holds something else. Return the checkpoint to resume from, or None for a new run.

    Args:
        output_dir: Where the run will write.
        resume: A checkpoint's folder, "true" for the newest in `output_dir`, None or "false" for a new run.
        overwrite: Whether an earlier run in `output_dir` may be replaced.
    """
    folder = Path(output_dir)
    names = names_in_run(folder, ARGUMENTS)
    resume = None if resume is None or str(resume).lower() == "false" else str(resume)
    if set(names) <= HELD_BY_ANY_RUN:
        names = []  # the earlier run ended before it saved anything
    if names and resume is None and not overwrite:
        raise InputError(
            f"--output_dir {folder}: already holds a run; resume it with --resume_from_checkpoint true, replace it "
            "with --overwrite_output_dir, or give another folder."
        )
    if resume is not None and overwrite:
        raise InputError("--resume_from_checkpoint and --overwrite_output_dir exclude each other; give one.")
    if resume is None:
        return None
    if resume.lower() == "true" and not names:
        logger.warning(
            f"--resume_from_checkpoint true: {folder} holds no checkpoint yet, so the run starts from the beginning."
        )
        return None
    checkpoint = find_checkpoint(folder, resume)
    if names and checkpoint.parent.resolve() != folder.resolve():
        raise InputError(
            f"--resume_from_checkpoint {resume}: is not of the run in --output_dir {folder}, which would be "
            "overwritten; give a new folder, or a checkpoint of that run."
        )
    return checkpoint


def check_folder(output_dir: str, marker: str, overwrite: bool) -> None:
    """Refuse a folder for a script whose runs cannot be resumed. The file `marker` marks its folders."""
    names = names_in_run(Path(output_dir), marker)
    if not set(names) <= {marker, IGNORED} and not overwrite:
        raise InputError(
            f"--output_dir {output_dir}: already holds a run; replace it with --overwrite_output_dir, or give another "
            "folder."
        )


def names_in_run(folder: Path, marker: str) -> list[str]:
    """Return the names in `folder`, which must be new, empty, or an earlier run of the script that writes `marker`."""
    return names_of_earlier_output(folder, marker, ignored=[LOCK])


@contextmanager
def started(arguments: TrainingArguments, marker: str, seen: list[str], start: Callable[[], None]) -> Iterator[None]:
    """Start a run in `arguments.output_dir`, and keep other runs out inside the block. The writer calls `start`.

    Args:
        seen: What `names_in_run` returned when the folder was checked. Newer names are another run's.
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
            f"--output_dir {folder}: another run is writing there; wait for it, stop it, or give another folder."
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
            raise InputError(f"--output_dir {folder}: cannot be written to ({error}); give another folder.") from error
        logger.warning(f"--output_dir {folder}: its file system has no locks, so a second run could write there.")
    try:
        yield
    finally:
        lock.release()


def start_run(output_dir: str, settings: dict, resumes: bool) -> None:
    """Mark the folder as a run's. Unless this run resumes an earlier one, remove what that left there."""
    wanted = "checkpoint-*/" if settings.get("hub_strategy") == "all_checkpoints" else None
    ignored = [pattern for pattern in NOT_PUBLISHED if pattern != wanted]
    start_folder(output_dir, ARGUMENTS, settings, () if resumes else WRITTEN, ignored)


def start_folder(
    output_dir: str, marker: str, settings: dict, written: Sequence[str], not_published: Sequence[str]
) -> None:
    """Remove what an earlier run left there, write the settings to `marker`, and tell git and the Hub's clients what
    not to publish. Both lists hold globs."""
    folder = Path(output_dir)
    for path in [path for pattern in written for path in folder.glob(pattern)]:
        remove(path)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / marker).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    (folder / IGNORED).write_text("".join(f"{pattern}\n" for pattern in not_published), encoding="utf-8")
