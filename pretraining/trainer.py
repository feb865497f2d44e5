"""The Trainer of joint pretraining.

Every epoch has masks of its own, and every evaluation has the same ones. Metrics are counted on the device. A warning
comes when a network learns nothing, and a report is published with the model.
"""

import copy
import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from huggingface_hub import run_as_future
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm
from transformers import TrainerCallback
from transformers.trainer_utils import HubStrategy

from span_electra.common.attributes import replaced_attribute
from span_electra.common.errors import InputError, one_line
from span_electra.common.run_files import step_of
from span_electra.data_collator import largest_masked_share
from span_electra.encoders.configuration_span_encoder import GENERATOR_FOLDER
from span_electra.hub.publishing import PublishingError, is_from_the_hub, tag_checkpoint
from span_electra.pretraining.alarms import LearningMonitor
from span_electra.pretraining.arguments import PretrainingArguments
from span_electra.pretraining.fixed_corruption import trade_places
from span_electra.pretraining.linear_probe import LinearProbe
from span_electra.pretraining.metrics import FIXED, LOSSES, PretrainingMetrics, token_counts
from span_electra.pretraining.optimizer import slow_down_loaded
from span_electra.pretraining.report import write_report
from span_electra.pretraining.streaming_trainer import StreamingTrainer
from span_electra.training.resuming import collator_facts
from span_electra.training.set_epoch import SetEpoch

logger = logging.getLogger(__name__)

EVALUATION_EPOCH = 0  # the collator of evaluation stays in it, so that every evaluation sees the same masks


class NonFiniteLossError(ArithmeticError):
    """The loss or the gradient is infinite or not a number; raised before either reaches a checkpoint."""


class SpanElectraTrainer(StreamingTrainer):
    """
    Trains a generator and a discriminator together: a `SpanElectraForPreTraining` or a `SpanEncoderForPreTraining`.

    Args:
        data_collator: Masks the training rows. The Trainer tells it each epoch.
        eval_data_collator: Masks the rows of evaluation; by default a copy of `data_collator`. It must be another
            object, because worker processes may keep either. An `EvaluationCollator` makes `fixed_discriminator_auc`
            comparable between runs that mask differently.
        settings: All options of the run by name, for its report; by default `args`.
        probes: They score the discriminator on labelled texts at every evaluation.
        kwargs: As for [`~transformers.Trainer`].

    Raises:
        ValueError: The two collators are the same object, pad with another token than the model's, or may mask more
            tokens than the model's `largest_masked_share` has room for.
        NonFiniteLossError: (from `train`) The loss or its gradient stopped being finite.
    """

    def __init__(
        self,
        *args,
        data_collator,
        eval_data_collator=None,
        settings: dict | None = None,
        probes: Sequence[LinearProbe] = (),
        **kwargs,
    ):
        if eval_data_collator is data_collator:
            raise ValueError("`eval_data_collator` is `data_collator` itself; evaluation needs a collator of its own.")
        self.gradient_norm: torch.Tensor | None = None  # of the coming update, once the library has taken it
        super().__init__(*args, data_collator=data_collator, **kwargs)  # type: ignore[misc]
        padding: int | None = self.model.config.pad_token_id  # type: ignore[assignment]
        if padding != data_collator.pad_token_id:
            raise ValueError(
                f"The model's `pad_token_id` is {padding}, but `data_collator` pads with the tokenizer's, "
                f"{data_collator.pad_token_id}. Set it in the model's configuration, or token {padding} never learns."
            )
        for collator in (data_collator, getattr(eval_data_collator, "collator", eval_data_collator)):
            check_capacity(self.model, collator)
        self.settings = self.args.to_dict() if settings is None else settings
        self.facts = collator_facts(data_collator)
        self.probes = probes
        self.eval_data_collator = copy.deepcopy(data_collator) if eval_data_collator is None else eval_data_collator
        self.eval_data_collator.set_epoch(EVALUATION_EPOCH)
        vocab_size: int = self.model.config.vocab_size  # type: ignore[assignment]
        device = self.args.device
        self.train_metrics = PretrainingMetrics(vocab_size, device)
        self.eval_metrics = PretrainingMetrics(vocab_size, device)
        self.resumable_tensors = vars(self.train_metrics)
        self.found_nonfinite = torch.zeros((), device=device)  # 1 from the first non-finite loss or gradient on
        self.add_callback(SetEpoch(data_collator))
        self.add_callback(FiniteWeights(self))
        self.add_callback(LastLog())
        self.add_callback(LearningMonitor(self.model.config.objective))  # type: ignore[arg-type, union-attr]
        self.add_callback(ReportOfUpload(self))

    # --- training -------------------------------------------------------------------------------------------------

    def create_accelerator_and_postprocess(self) -> None:
        if self.args.ddp_find_unused_parameters is None:
            self.args.ddp_find_unused_parameters = False  # every step gives every trainable parameter a gradient
        super().create_accelerator_and_postprocess()
        clip = self.accelerator.clip_grad_norm_

        def clip_and_note(*args, **kwargs):
            self.gradient_norm = clip(*args, **kwargs)
            return self.gradient_norm

        # The library takes the norm at every update, but no hook gets it. Taking it again costs 0.6 % of a step.
        self.accelerator.clip_grad_norm_ = clip_and_note

    def create_optimizer(self, *args, **kwargs) -> torch.optim.Optimizer:
        is_given = self.optimizer is not None
        optimizer = super().create_optimizer(*args, **kwargs)
        if not is_given:
            # The Trainer's own arguments lack the option.
            ratio = getattr(self.args, "pretrained_lr_ratio", PretrainingArguments.pretrained_lr_ratio)
            slow_down_loaded(optimizer, self.model, ratio)  # type: ignore[arg-type]
        return optimizer

    def train(self, *args, **kwargs):
        if not self.is_fsdp_enabled:
            return super().train(*args, **kwargs)
        check_shardable(self.model)
        # Accelerate would shard the input and output embeddings apart, but they share parameters with other parts.
        with ExitStack() as hidden:
            for name in ("get_input_embeddings", "get_output_embeddings"):
                hidden.enter_context(replaced_attribute(self.model, name, lambda: None))
            self.add_callback(sharded := ShardedModel(hidden, type(self.model)))
            hidden.callback(self.remove_callback, sharded)
            return super().train(*args, **kwargs)

    # --- the loss -------------------------------------------------------------------------------------------------
    # An update averages over the tokens of all its batches on all processes. So the gradient is that of one large
    # batch, however its rows are divided.

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The batches of an update, and the number of tokens that each of its losses is a mean over, (losses,)."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        return batches, self.sum_over_processes(sum(loss_token_counts(batch) for batch in batches).to(device))

    def share_of_update(self, outputs, inputs, update_counts: torch.Tensor) -> torch.Tensor:
        """The batch's part of the update's loss.

        The Trainer divides it by the number of batches and DDP by the number of processes, so this multiplies by both.
        """
        parts = self.current_gradient_accumulation_steps * self.accelerator.num_processes
        shares = loss_token_counts(inputs) / update_counts.clamp(min=1) * parts
        losses = {name: outputs[name] * share for name, share in zip(LOSSES, shares, strict=True) if name in outputs}
        return self.weighted_sum(losses)

    def weighted_sum(self, losses):
        return self.accelerator.unwrap_model(self.model).weighted_sum(losses)

    # --- metrics --------------------------------------------------------------------------------------------------

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        fixed_labels = inputs.pop("fixed_labels", inputs["labels"])
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if model.training:
            if num_items_in_batch is not None:
                loss = self.share_of_update(outputs, inputs, num_items_in_batch)
            self.found_nonfinite.clamp_(min=(~loss.detach().isfinite()).float())
        metrics = self.train_metrics if model.training else self.eval_metrics
        metrics.update(outputs, inputs["labels"], inputs["attention_mask"])
        if not model.training and outputs.logits is not None:
            self.judge_fixed_corruption(model, inputs, fixed_labels)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs, start_time=None):
        if "loss" in logs:  # a training log: the metrics since the last one
            self.check_finite()
            logs |= self.train_metrics.compute(self.sum_over_processes) | self.readings()
            # After a resumption, the library's loss lacks the steps between the last log and the checkpoint.
            logs["loss"] = self.weighted_sum(defaultdict(float, logs))  # a loss over no tokens is absent, and counts 0
            self.train_metrics.reset()
        logs.pop("train_loss", None)  # wrong after a resumption: it divides the loss of the later steps by all
        super().log(logs, start_time)

    def sum_over_processes(self, tensor: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(tensor, "sum")

    # --- evaluation -----------------------------------------------------------------------------------------------

    def get_eval_dataloader(self, eval_dataset=None):
        keep_last = replaced_attribute(self.args, "dataloader_drop_last", False)
        with replaced_attribute(self, "data_collator", self.eval_data_collator), keep_last:
            return super().get_eval_dataloader(eval_dataset)

    def judge_fixed_corruption(self, model, inputs, fixed_labels: torch.Tensor) -> None:
        """Add the discriminator's judgement of a text that no generator has changed to the metrics of evaluation.

        The tokens that `fixed_labels` (rows, tokens) marks as masked trade places.
        """
        labels, mask, positions = inputs["labels"], inputs["attention_mask"], inputs.get("position_ids")
        original = inputs["input_ids"].where(labels == -100, labels)
        corrupted = trade_places(original, fixed_labels, positions)
        logits = model(input_ids=corrupted, attention_mask=mask, position_ids=positions).logits
        self.eval_metrics.add_logits(FIXED, logits, corrupted != original, mask)

    def evaluation_loop(self, *args, metric_key_prefix="eval", **kwargs):
        self.eval_metrics.reset()
        with torch.random.fork_rng(devices=[]):  # an iterator over batches draws a random number
            output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)  # type: ignore[misc]
        metrics = self.eval_metrics.compute(self.sum_over_processes)
        metrics["loss"] = self.weighted_sum(defaultdict(float, metrics))
        if not math.isfinite(metrics["loss"]):
            self.found_nonfinite.fill_(1)  # the last update broke the weights, and training has not used them yet
            self.check_finite()
        for probe in self.probes:
            metrics |= probe.metrics(self.accelerator.unwrap_model(self.model))
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in metrics.items()})
        return output

    def prediction_step(self, model, inputs, *args, **kwargs):
        """As [`~transformers.Trainer.prediction_step`], but each row counts once.

        With several processes, Accelerate repeats rows to fill up the last batches."""
        state, rows = self.accelerator.gradient_state, len(inputs["labels"])
        if not state.end_of_dataloader or state.remainder <= 0:
            return super().prediction_step(model, inputs, *args, **kwargs)
        own = min(max(state.remainder - rows * self.args.process_index, 0), rows)
        inputs = {name: values[: max(own, 1)] for name, values in inputs.items()}
        counted = self.eval_metrics if own else PretrainingMetrics(len(self.eval_metrics.originals), self.args.device)
        with replaced_attribute(self, "eval_metrics", counted):
            return super().prediction_step(model, inputs, *args, **kwargs)

    # --- publishing -----------------------------------------------------------------------------------------------

    def create_model_card(self, **metadata) -> None:  # type: ignore[override]
        """Write our model card instead of the library's, with the history and the curves that it shows.

        Args:
            metadata: Entries that override the run's own, by the names of [`~huggingface_hub.ModelCardData`].
        """
        if self.is_world_process_zero():
            settings = {**self.settings, "hub_model_id": self.hub_model_id or self.args.hub_model_id}
            write_report(self.args.output_dir, settings, self.state.log_history, self.kept_step(), **metadata)

    def kept_step(self) -> int:
        """The step of the model's weights: that of the best checkpoint once it is loaded, otherwise the last."""
        best = self.state.best_model_checkpoint  # not `best_global_step`, which may have left no checkpoint
        is_loaded = best and self.args.load_best_model_at_end and not self.is_in_train
        return step_of(Path(best)) if is_loaded else self.state.global_step

    def await_uploads(self) -> None:
        """As in the base class; the library would also skip a checkpoint that comes during an upload."""
        uploads = getattr(self, "push_in_progress", None)
        if self.args.hub_strategy == HubStrategy.ALL_CHECKPOINTS and uploads is not None:
            uploads.wait_until_done()

    def send_checkpoint(self, checkpoint: Path) -> None:
        """Upload a checkpoint's model. If all checkpoints are to be published, make each the revision `step-N`."""
        if self.args.hub_strategy != HubStrategy.ALL_CHECKPOINTS or not self.is_world_process_zero():
            super().send_checkpoint(checkpoint)
            return
        self.await_uploads()
        super().send_checkpoint(checkpoint)
        jobs = self.push_in_progress.jobs  # type: ignore[attr-defined]
        jobs.append(run_as_future(tag_checkpoint, checkpoint, self.hub_model_id, jobs[0], token=self.args.hub_token))

    def push_to_hub(self, *args, **kwargs):
        """As [`~transformers.Trainer.push_to_hub`].

        Raises:
            PublishingError: The upload failed. The model is saved, and the repository is unchanged.
        """
        try:
            return super().push_to_hub(*args, **kwargs)
        except Exception as error:
            if not is_from_the_hub(error):
                raise
            raise PublishingError(
                f"The upload to {self.hub_model_id} failed ({one_line(error)}). Nothing is lost: everything is in "
                f"{self.args.output_dir}, and `hf upload {self.hub_model_id} {self.args.output_dir}` sends it."
            ) from error

    # --- losses and gradients that are not finite -----------------------------------------------------------------
    # To read a number from the device at every step would make it wait. So a flag stays on the device: once it is set,
    # the fused optimizer leaves the weights alone. The host reads it when it logs and before it saves.

    def guard_weights(self, model) -> None:
        """Keep a gradient that is not finite from changing the weights."""
        if self.accelerator.scaler is not None:
            return  # float16's loss scaling finds infinite gradients itself and skips their update
        norm, self.gradient_norm = self.gradient_norm, None
        if norm is None:  # the library takes it in another way if only some parameters are sharded
            norm = get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        if isinstance(norm, DTensor):  # under FSDP each process has a part of it
            norm = norm.full_tensor()
        norm = torch.as_tensor(norm)  # DeepSpeed's is a float
        self.found_nonfinite.clamp_(min=(~norm.isfinite()).float().to(self.found_nonfinite.device))
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        if getattr(optimizer, "defaults", {}).get("fused"):
            optimizer.found_inf = self.found_nonfinite
        else:
            self.check_finite()

    def save_model(self, output_dir=None, _internal_call=False):
        self.check_finite()
        super().save_model(output_dir, _internal_call)

    def write_model(self, folder: Path) -> None:
        super().write_model(folder)
        generator = folder / GENERATOR_FOLDER
        if self.args.should_save and self.processing_class is not None and generator.is_dir():
            self.processing_class.save_pretrained(generator)  # so that the generator's folder can be used alone

    def check_finite(self) -> None:
        """Raise a `NonFiniteLossError` if any process has seen a loss or a gradient that is not finite."""
        if self.sum_over_processes(self.found_nonfinite.clone()).item():
            raise NonFiniteLossError(
                f"The loss or its gradient stopped being finite before step {self.state.global_step}, so training "
                "stops here. No checkpoint holds the damage: resume from the last one with --resume_from_checkpoint "
                f"true, and with a learning rate below {self.args.learning_rate:g}, a longer --warmup_steps or "
                "--bf16 instead of --fp16."
            )


class FiniteWeights(TrainerCallback):
    """Checks every gradient before the optimizer uses it."""

    def __init__(self, trainer: SpanElectraTrainer):
        self.trainer = trainer

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.trainer.guard_weights(model)


class ShardedModel(TrainerCallback):
    """Gives back what was hidden from Accelerate once FSDP has sharded the model, and gives the model its name back.

    FSDP makes it a class of its own, and what is saved beside the weights goes by the class's name."""

    def __init__(self, hidden: ExitStack, model_class: type):
        self.hidden, self.model_class = hidden, model_class

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.hidden.close()
        for name in ("__name__", "__module__"):
            setattr(type(model), name, getattr(self.model_class, name))


class LastLog(TrainerCallback):
    """Logs at the last step, wherever it falls between two logs."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= state.max_steps and args.logging_strategy != "no":
            control.should_log = True


class ReportOfUpload(TrainerCallback):
    """Writes the report before the run's folder is uploaded."""

    def __init__(self, trainer: SpanElectraTrainer):
        self.trainer = trainer

    def on_push_begin(self, args, state, control, **kwargs):
        self.trainer.create_model_card()


def check_shardable(model) -> None:
    """Refuse to shard a model whose parts FSDP cannot tell apart, or cannot save."""
    if model.config.share_encoder:
        raise InputError(
            "FSDP cannot shard a model whose networks share one encoder: use DDP (configs/accelerate/ddp.yaml), or "
            "give the generator another shape."
        )
    if hasattr(model, "load_checkpoint"):
        raise InputError(
            f"FSDP saves a model in one file, and a {model.config.model_type} is saved in a folder for each network: "
            "use DDP (configs/accelerate/ddp.yaml)."
        )


def check_capacity(model, collator) -> None:
    """Refuse a collator that may mask more tokens than the model's static shapes have room for."""
    share, ratio = model.largest_masked_share, getattr(collator, "mask_ratio", None)
    if share is None or ratio is None:
        return
    width = collator.pad_to_multiple_of
    needed = ratio if width is None else largest_masked_share(ratio, width)
    if share < needed:
        raise ValueError(
            f"The model's `largest_masked_share` is {share:g}, but the collator may mask {needed:g} of a batch's "
            f"tokens (`mask_ratio` {ratio:g}, `pad_to_multiple_of` {width}). Pad batches to the length of the longest "
            "row, and set it to span_electra.data_collator.largest_masked_share(mask_ratio, that length), or to None."
        )


def loss_token_counts(batch) -> torch.Tensor:
    """The number of tokens of a batch that each of `LOSSES` is a mean over, (losses,)."""
    counts = token_counts(batch["labels"], batch["attention_mask"])
    return torch.stack([counts[name] for name in LOSSES])
