"""What a run of a pair of stock encoders leaves, in other libraries: no custom code anywhere."""

import numpy as np
import onnxruntime
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from sentence_transformers import SentenceTransformer
from test_clients import SPECIAL, WORDS
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    pipeline,
)

from span_electra import PretrainingArguments, SpanElectraTrainer, SpanEncoderConfig, SpanEncoderForPreTraining
from span_electra.data_collator import DataCollatorForSpanMasking

pytestmark = pytest.mark.filterwarnings("default")  # warnings are errors elsewhere; these are the other libraries'
TEXTS = ["a small encoder", "the old house"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder that twenty steps of a ModernBERT pair leave."""
    folder = tmp_path_factory.mktemp("pair")
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.BertProcessing(("[SEP]", 1), ("[CLS]", 0))
    names = {f"{token.strip('[]').lower()}_token": token for token in SPECIAL}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, **names)
    torch.manual_seed(0)
    ids = {"cls_token_id": 0, "bos_token_id": 0, "sep_token_id": 1, "eos_token_id": 1, "pad_token_id": 2}
    shape = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 96}
    family = {"model_type": "modernbert", "vocab_size": len(WORDS), "max_position_embeddings": 64}
    model = SpanEncoderForPreTraining(SpanEncoderConfig.from_settings(family | shape | ids))
    rows = [{"input_ids": tokenizer(text)["input_ids"]} for text in (*TEXTS, "a longer text by an encoder") * 4]
    trainer = SpanElectraTrainer(
        model=model,
        args=PretrainingArguments(
            output_dir=str(folder), max_steps=20, eval_strategy="no", use_cpu=True, report_to="none"
        ),
        train_dataset=rows,
        data_collator=DataCollatorForSpanMasking(tokenizer),
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model()
    return folder


def hidden_states(folder, texts):
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        return model(**batch).last_hidden_state, batch["attention_mask"]


def test_pipelines(folder):
    vectors = pipeline("feature-extraction", model=str(folder))(TEXTS[0], return_tensors=True)
    torch.testing.assert_close(vectors, hidden_states(folder, TEXTS[:1])[0], rtol=1e-5, atol=1e-6)
    fill = pipeline("fill-mask", model=str(folder / "generator"))
    assert len(fill(f"a small {fill.tokenizer.mask_token}")) == 5


def test_sentence_transformers(folder, tmp_path):
    model = SentenceTransformer(str(folder))
    hidden, mask = hidden_states(folder, TEXTS)
    means = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    np.testing.assert_allclose(model.encode(TEXTS), means.numpy(), rtol=1e-4, atol=1e-5)
    model.save(str(tmp_path / "sentences"))
    np.testing.assert_allclose(SentenceTransformer(str(tmp_path / "sentences")).encode(TEXTS), means, atol=1e-5)


def test_peft(folder, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(TEXTS, return_tensors="pt", padding=True)
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_pretrained(folder).save_pretrained(tmp_path / "classifier")
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "classifier")
    lora = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["Wqkv"]))
    optimizer = torch.optim.AdamW([weight for weight in lora.parameters() if weight.requires_grad], lr=1e-2)
    for _ in range(3):
        lora(**batch, labels=torch.tensor([0, 1])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    lora.eval().save_pretrained(tmp_path / "adapter")
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "classifier")
    merged = PeftModel.from_pretrained(base, tmp_path / "adapter").eval().merge_and_unload()
    with torch.no_grad():
        torch.testing.assert_close(merged(**batch).logits, lora(**batch).logits, rtol=1e-5, atol=1e-5)


def test_onnx(folder, tmp_path):
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    batch = dict(tokenizer(TEXTS, return_tensors="pt", padding=True))
    rows, tokens = torch.export.Dim("rows"), torch.export.Dim("tokens", max=64)
    torch.onnx.export(
        model,
        kwargs=batch,
        f=str(tmp_path / "encoder.onnx"),
        input_names=list(batch),
        output_names=["last_hidden_state"],
        dynamic_shapes={name: {0: rows, 1: tokens} for name in batch},
        dynamo=True,
    )
    session = onnxruntime.InferenceSession(str(tmp_path / "encoder.onnx"))
    other = dict(tokenizer(["a longer text by a small encoder"] * 3, return_tensors="pt"))
    (hidden,) = session.run(["last_hidden_state"], {name: ids.numpy() for name, ids in other.items()})
    with torch.no_grad():
        largest = np.abs(hidden - model(**other).last_hidden_state.numpy()).max()
    print(f"ONNX: largest difference {largest:.1e}")
    assert largest < 1e-4
