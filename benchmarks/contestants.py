"""The joint step as others write it, and ours: what `step.py` times and `time_to_quality.py` trains."""

import importlib.util

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForMaskedLM, ElectraForMaskedLM, ElectraForPreTraining
from transformers.modeling_outputs import TokenClassifierOutput

from span_electra import SpanElectraForPreTraining
from span_electra.encoders.modeling_span_encoder import ReplacedTokenHead, SpanEncoderForPreTraining, new_encoder

MASK_RATIO = 0.15  # electra-pytorch knows only this one
RTD_WEIGHT = 50  # ELECTRA's


class Naive(nn.Module):
    """A stock generator and a stock discriminator, put together as you would write it first: MLM and RTD alone."""

    def __init__(self, generator: nn.Module, discriminator: nn.Module):
        super().__init__()
        self.generator, self.discriminator = generator, discriminator

    def sample(self, logits: torch.Tensor) -> torch.Tensor:
        return torch.multinomial(logits.float().softmax(dim=-1), 1).squeeze(-1)

    def propose(self, logits: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
        return self.sample(logits[masked])

    def forward(self, input_ids, attention_mask, labels):
        generated = self.generator(input_ids, attention_mask=attention_mask, labels=labels)
        masked = labels != -100
        corrupted = input_ids.clone()
        corrupted[masked] = self.propose(generated.logits.detach(), masked)
        is_replaced = masked & (corrupted != labels)
        detected = self.discriminator(corrupted, attention_mask=attention_mask, labels=is_replaced.long())
        return generated.loss + RTD_WEIGHT * detected.loss

    # How far it has come, for `time_to_quality.py`.

    def masked_loss(self, **batch) -> torch.Tensor:
        """The generator's mean cross-entropy on the masked tokens of `batch`."""
        return self.generator(**batch).loss

    def detect(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """The discriminator's score that each token was replaced."""
        return self.discriminator(input_ids, attention_mask=attention_mask).logits


class Early(Naive):
    """The same as in older ports: eager attention, and every token is sampled."""

    def propose(self, logits: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
        return self.sample(logits.flatten(0, 1))[masked.flatten()]


class Logits(nn.Module):
    """A stock model that returns only its logits, as electra-pytorch expects."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, input_ids, **inputs):
        return self.model(input_ids, **inputs).logits


class ElectraPyTorch(Naive):
    """The package electra-pytorch, which masks single tokens in its own forward, as many as the others do."""

    def __init__(self, generator: nn.Module, discriminator: nn.Module, mask_id=3, pad_id=2, other_special=(0, 1)):
        from electra_pytorch import Electra

        super().__init__(generator, discriminator)
        self.electra = Electra(
            Logits(generator),
            Logits(discriminator),
            mask_prob=MASK_RATIO,
            replace_prob=1.0,
            mask_token_id=mask_id,
            pad_token_id=pad_id,
            mask_ignore_token_ids=[*other_special],
        )

    def forward(self, input_ids, attention_mask, labels):
        original = torch.where(labels == -100, input_ids, labels)
        return self.electra(original, attention_mask=attention_mask).loss


class Txtai(nn.Module):
    """The token detection model of the package txtai."""

    def __init__(self, generator: nn.Module, discriminator: nn.Module):
        from txtai.models import TokenDetection

        super().__init__()
        self.detection = TokenDetection(generator, discriminator, tokenizer=None)

    def forward(self, input_ids, attention_mask, labels):
        return self.detection(input_ids, labels=labels, attention_mask=attention_mask)[0]


class MaskedLM(nn.Module):
    """A stock masked language model alone."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, **batch):
        return self.model(**batch).loss

    masked_loss = forward
    detect = None


class Ours(nn.Module):
    """Our joint model."""

    def __init__(self, model: SpanElectraForPreTraining | SpanEncoderForPreTraining):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, **batch):
        return self.model(input_ids, attention_mask, **batch).loss

    def masked_loss(self, **batch) -> torch.Tensor:
        return self.model(**batch).mlm_loss

    def detect(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids, attention_mask).logits


class Detector(nn.Module):
    """A stock encoder and a head that scores its tokens: `ElectraForPreTraining` for families that have none."""

    def __init__(self, encoder: nn.Module, head: nn.Module):
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, input_ids, attention_mask, labels=None):
        logits = self.head(self.encoder(input_ids, attention_mask=attention_mask).last_hidden_state)
        if labels is None:
            return TokenClassifierOutput(logits=logits)
        is_real = attention_mask.bool()
        loss = F.binary_cross_entropy_with_logits(logits[is_real], labels[is_real].float())
        return TokenClassifierOutput(loss=loss, logits=logits)

    def set_attn_implementation(self, name: str) -> None:
        self.encoder.set_attn_implementation(name)


def stock_pair(ours: SpanElectraForPreTraining | SpanEncoderForPreTraining) -> tuple[nn.Module, nn.Module]:
    """Stock models with the shapes and weights of `ours`, which share one table of embeddings, as ELECTRA's do."""
    discriminator: nn.Module
    if isinstance(ours, SpanElectraForPreTraining):
        generator = ElectraForMaskedLM(ours.config.generator_config())
        generator.load_state_dict(ours.generator.state_dict())
        discriminator = ElectraForPreTraining(ours.config.discriminator_config())
        weights = ours.state_dict()
        discriminator.load_state_dict({key: weights[key] for key in discriminator.state_dict()})
        generator.electra.embeddings = discriminator.electra.embeddings
        generator.generator_lm_head.weight = discriminator.get_input_embeddings().weight
        return generator, discriminator
    generator = AutoModelForMaskedLM.from_config(ours.config.generator)
    generator.load_state_dict(ours.generator.state_dict())
    encoder, head = new_encoder(ours.config.discriminator), ReplacedTokenHead(ours.config)
    encoder.load_state_dict(ours.discriminator.state_dict(), strict=False)  # beside the table there are its parts
    head.load_state_dict(ours.discriminator_predictions.state_dict())
    encoder.set_input_embeddings(generator.get_input_embeddings())
    return generator, Detector(encoder, head)


NAIVE, EARLY = "naive composition", "naive, eager, samples all"
OURS, TOKEN_OBJECTIVES = "SpanElectra", "SpanElectra, MLM + RTD only"
PEERS = {NAIVE: Naive, EARLY: Early, "electra-pytorch": ElectraPyTorch, "txtai": Txtai}
MODULES = {"electra-pytorch": "electra_pytorch", "txtai": "txtai"}


def is_installed(name: str) -> bool:
    """Whether a contestant needs no package, or has it."""
    return name not in MODULES or importlib.util.find_spec(MODULES[name]) is not None
