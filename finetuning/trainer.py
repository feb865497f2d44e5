"""The Trainer of fine-tuning: learning rates fall from layer to layer, and every validation row is scored."""

import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from transformers import Trainer

from span_electra.common.attributes import replaced_attribute
from span_electra.finetuning.arguments import FinetuningArguments

LAYER = re.compile(r"\.(?:layers?|h|blocks?)\.(\d+)\.")  # finds a layer's number in a parameter's name


class FinetuningTrainer(Trainer):
    """Trains with layer-wise learning rates (Clark et al., 2020, appendix B)."""

    args: FinetuningArguments  # type: ignore[assignment]

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # Heads accept the number of an update's labels and ignore it, so the Trainer must average over batches and
        # processes. All batches have equal weight, which is exact for means over rows. In a mean over labelled tokens,
        # tokens of a batch with few of them weigh more.
        self.model_accepts_loss_kwargs = False

    def get_eval_dataloader(self, eval_dataset=None):
        with self.all_rows_in_order():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset):
        with self.all_rows_in_order():
            return super().get_test_dataloader(test_dataset)

    @contextmanager
    def all_rows_in_order(self) -> Iterator[None]:
        """Keep all rows in their order, whatever the options for training. Tasks identify a validation row by it."""
        in_order = replaced_attribute(self.args, "train_sampling_strategy", "random")
        with in_order, replaced_attribute(self.args, "dataloader_drop_last", False):
            yield

    def create_optimizer(self, model=None):
        model = self.model if model is None else model
        if self.optimizer is None:
            optimizer_class, settings = self.get_optimizer_cls_and_kwargs(self.args, model)
            self.optimizer = optimizer_class(self.parameter_groups(model), **settings)
        return super().create_optimizer()

    def parameter_groups(self, model: nn.Module) -> list[dict]:
        """Group parameters by depth and weight decay, each with its learning rate, highest first."""
        encoder: str = self.model.base_model_prefix  # type: ignore[assignment]
        depths = parameter_depths(model, encoder)
        decayed = set(self.get_decay_parameter_names(model))
        groups = defaultdict(list)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                groups[depths[name], name in decayed].append(parameter)
        top = max(depths.values())
        return [
            {
                "params": parameters,
                "lr": self.args.learning_rate * self.args.layerwise_lr_decay ** (top - depth),
                "weight_decay": self.args.weight_decay if decays else 0.0,
            }
            for (depth, decays), parameters in sorted(groups.items(), key=lambda group: group[0], reverse=True)
        ]


def parameter_depths(model: nn.Module, base_model_prefix: str) -> dict[str, int]:
    """Return each parameter's distance from the input, as ELECTRA's released code counts it.

    Embeddings, and what is named after them, are at 0, and the encoder's layers at 1 to n. What the encoder has above
    its layers (BERT's pooler, a last norm) is at n + 1. The new head, which is everything else, is at n + 2.
    """
    names = [name for name, _ in model.named_parameters()]
    numbers = {name: int(match[1]) for name in names if (match := LAYER.search(f".{name}"))}
    layers = max(numbers.values(), default=-1) + 1
    embeddings = {weight for part in model.modules() if isinstance(part, nn.Embedding) for weight in part.parameters()}
    depths = {}
    for name, parameter in model.named_parameters():
        if f".{base_model_prefix}." not in f".{name}":
            depths[name] = layers + 2
        elif name in numbers:
            depths[name] = numbers[name] + 1
        else:
            depths[name] = 0 if parameter in embeddings or "embed" in name else layers + 1
    return depths
