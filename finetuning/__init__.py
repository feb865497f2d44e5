"""Fine-tuning on a task, for `run_finetuning.py`: arguments, data, a module for each kind of task, metrics, report."""
