"""A tiny model, rows without meaning and a Trainer that keeps what it saw, for the tests of training."""

from collections.abc import Sequence

import datasets
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import ModernBertConfig, PreTrainedTokenizerFast

from span_electra import SpanElectraConfig, SpanElectraForPreTraining, SpanEncoderConfig, SpanEncoderForPreTraining
from span_electra.data_collator import DataCollatorForSpanMasking
from span_electra.pretraining.arguments import PretrainingArguments
from span_electra.pretraining.trainer import SpanElectraTrainer

torch.set_num_threads(1)  # more cost time on models as small as these
SPECIAL = ["[CLS]", "[SEP]", "[PAD]", "[MASK]", "[UNK]"]


def word_tokenizer(special: Sequence[str] = SPECIAL) -> PreTrainedTokenizerFast:
    """A token for each of 94 words, after the special ones."""
    vocabulary = {token: i for i, token in enumerate([*special, *(f"w{i}" for i in range(94))])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    )
    names = {f"{token.strip('[]').lower()}_token": token for token in SPECIAL}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def rows(count, length=22, end=1):  # 20 ordinary tokens, of which always 3 are masked
    generator = torch.Generator().manual_seed(0)
    content = torch.randint(5, 99, (count, length), generator=generator)
    content[:, 0], content[:, -1] = 0, end
    return datasets.Dataset.from_dict({"input_ids": content.tolist()})


def chained(lists):
    return [item for part in lists for item in part]


def sequences_of(rows, cls_token_id):
    """The sequences in `rows`, each of which begins with [CLS]."""
    sequences = []
    for row in rows:
        begins = [i for i, token in enumerate(row) if token == cls_token_id]
        sequences += [row[begin:end] for begin, end in zip(begins, [*begins[1:], len(row)], strict=True)]
    return sequences


def tiny_model(**settings):
    torch.manual_seed(0)
    sizes = {"vocab_size": 99, "embedding_size": 16, "hidden_size": 32, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 32, "pad_token_id": 2}
    sizes |= {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    return SpanElectraForPreTraining(SpanElectraConfig(**sizes | settings))


def tiny_pair(**settings):
    """The same of stock encoders, ModernBERT's."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 64, "max_position_embeddings": 64, "local_attention": 8}
    sizes |= {"attention_dropout": 0.1, "mlp_dropout": 0.1, "embedding_dropout": 0.1}
    ids = {"cls_token_id": 0, "bos_token_id": 0, "sep_token_id": 1, "eos_token_id": 1, "pad_token_id": 2}
    return SpanEncoderForPreTraining(SpanEncoderConfig(discriminator=ModernBertConfig(**sizes, **ids), **settings))


class RecordingTrainer(SpanElectraTrainer):
    """Keeps the batches that training saw, with the epoch and the loss of each, and the last step's gradients."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.batches, self.losses = [], []

    def training_step(self, model, inputs, *args, **kwargs):
        self.batches.append((int(self.state.epoch or 0), {name: value.clone() for name, value in inputs.items()}))
        self.losses.append(super().training_step(model, inputs, *args, **kwargs))
        return self.losses[-1]

    def guard_weights(self, model):
        self.gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        super().guard_weights(model)


def make_trainer(tokenizer, output_dir, model=None, count=24, **arguments):
    defaults = {"per_device_train_batch_size": 4, "max_steps": 6, "logging_steps": 2, "use_cpu": True}
    defaults |= {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "eval_strategy": "no", "seed": 0}
    return RecordingTrainer(
        model=model or tiny_model(),
        args=PretrainingArguments(output_dir=str(output_dir), **defaults | arguments),
        train_dataset=rows(count, end=tokenizer.sep_token_id),
        eval_dataset=rows(10, end=tokenizer.sep_token_id),
        processing_class=tokenizer,
        data_collator=DataCollatorForSpanMasking(tokenizer, seed=0),
        eval_data_collator=DataCollatorForSpanMasking(tokenizer, seed=0),
    )
