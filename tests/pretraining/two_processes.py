"""A run on two processes, one of which has trouble; started by test_processes.py through the launcher.

python -m torch.distributed.run --nproc_per_node 2 two_processes.py OUTPUT_DIR evaluation|signal|disk
"""

import errno
import json
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from trainer_examples import make_trainer, rows, word_tokenizer
from transformers import TrainerCallback

from span_electra.training.shutdown import InterruptedRun, processes_end_together


class SignalToOne(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if args.process_index == 1 and state.global_step == 2:
            signal.raise_signal(signal.SIGTERM)


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def main(output_dir: str, what: str) -> None:
    # The best checkpoint is looked for at every save, behind a barrier of the library's.
    best = {"metric_for_best_model": "eval_loss", "eval_strategy": "steps", "eval_steps": 2}
    saving = {"save_strategy": "steps", "save_steps": 2, "ddp_backend": "gloo", "per_device_eval_batch_size": 4}
    trainer = make_trainer(word_tokenizer(), output_dir, **best, **saving)
    if what == "signal":
        trainer.add_callback(SignalToOne())
    if what == "disk" and trainer.args.process_index == 0:
        save = trainer.model.save_pretrained  # which comes before the library's barrier
        trainer.model.save_pretrained = lambda *args, **kwargs: (
            full_disk if trainer.state.global_step == 4 else save
        )(*args, **kwargs)
    if what == "evaluation":
        trainer.eval_dataset = rows(12)  # the second process has none of its own in the last batch
        metrics = trainer.evaluate()
        if trainer.is_world_process_zero():
            print("metrics:", json.dumps(metrics), flush=True)
        return
    try:
        trainer.train()
    except InterruptedRun as stopped:
        print(f"process {trainer.args.process_index}: {stopped}", flush=True)


if __name__ == "__main__":
    with processes_end_together():
        main(*sys.argv[1:])
