"""The Trainer of fine-tuning: the deeper a layer lies below the head, the less it learns."""

import re
from collections import defaultdict

from torch import nn
from transformers import Trainer

from span_electra.finetuning.arguments import FinetuningArguments

LAYER = re.compile(r"\.(?:layers?|h)\.(\d+)\.")  # a layer's number in a parameter's name


class FinetuningTrainer(Trainer):
    """Trains with layer-wise learning rates (Clark et al., 2020, appendix B)."""

    args: FinetuningArguments  # type: ignore[assignment]

    def create_optimizer(self, model=None):
        model = self.model if model is None else model
        if self.optimizer is None:
            optimizer_class, settings = self.get_optimizer_cls_and_kwargs(self.args, model)
            self.optimizer = optimizer_class(self.parameter_groups(model), **settings)
        return super().create_optimizer()

    def parameter_groups(self, model: nn.Module) -> list[dict]:
        """Parameters by depth and by whether weights decay, each group with its learning rate, the highest first."""
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
    """How far each parameter is from the input, as ELECTRA's released code counts.

    Embeddings are at 0, the encoder's layers at 1 to n. What the encoder has above them (BERT's pooler, a last norm)
    is at n + 1, and the new head, which is what lies outside of the encoder, at n + 2.
    """
    names = [name for name, _ in model.named_parameters()]
    numbers = {name: int(match[1]) for name in names if (match := LAYER.search(f".{name}"))}
    layers = max(numbers.values(), default=-1) + 1
    depths = {}
    for name in names:
        if f".{base_model_prefix}." not in f".{name}":
            depths[name] = layers + 2
        elif name in numbers:
            depths[name] = numbers[name] + 1
        else:
            depths[name] = 0 if "embedding" in name else layers + 1
    return depths
