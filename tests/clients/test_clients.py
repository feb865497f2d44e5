"""The code blocks of docs/clients.md, run as they stand, on a checkpoint that is trained here."""

import os
import re
import subprocess
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from sentence_transformers import SparseEncoder
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from span_electra import (
    SpanElectraConfig,
    SpanElectraForPreTraining,
    SpanElectraForQuestionAnswering,
    SpanElectraForSequenceClassification,
    SpanElectraForTokenClassification,
)
from span_electra.conversion.export import export
from span_electra.data_collator import DataCollatorForSpanMasking

# Warnings are errors elsewhere; these are the other libraries' among themselves.
pytestmark = pytest.mark.filterwarnings("default")
PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
SPECIAL = ["[CLS]", "[SEP]", "[PAD]", "[MASK]", "[UNK]"]
WORDS = [*SPECIAL, "a", "an", "the", "small", "old", "longer", "encoder", "house", "text", "by", "what", "is"]


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A folder with all that the page takes for granted."""
    home = tmp_path_factory.mktemp("home")
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.BertProcessing(("[SEP]", 1), ("[CLS]", 0))
    names = {f"{token.strip('[]').lower()}_token": token for token in SPECIAL}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, **names)
    torch.manual_seed(0)
    config = SpanElectraConfig(
        vocab_size=len(WORDS),
        embedding_size=32,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=64,
        pad_token_id=2,
        initializer_range=0.1,
    )
    model = SpanElectraForPreTraining(config)
    collator = DataCollatorForSpanMasking(tokenizer)
    rows = [{"input_ids": tokenizer(text)["input_ids"]} for text in ("the old house", "a longer text by an encoder")]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for epoch in range(20):
        collator.set_epoch(epoch)
        model(**collator(rows)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(home / "my_model")
    heads = {
        "my_classifier": SpanElectraForSequenceClassification,
        "my_tagger": SpanElectraForTokenClassification,
        "my_reader": SpanElectraForQuestionAnswering,
    }
    for name, head in heads.items():
        head.from_pretrained(home / "my_model").save_pretrained(home / name)
    for name in ("my_model", *heads):
        tokenizer.save_pretrained(home / name)
    export(home / "my_model", home / "my_model_stock")
    byte_level_tokenizer().save_pretrained(home / "gpt2_like_tokenizer")
    return home


def byte_level_tokenizer():
    """GPT-2's kind: the space that begins a word is part of its tokens, and no space goes before a text."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    backend.train_from_iterator(["The old house. An old encoder, the house"] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def block(heading):
    """The Python code under a heading of the page."""
    section = PAGE.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    return code


@pytest.fixture
def run(home, monkeypatch):
    """Run the block under a heading, and return its variables."""

    def run_block(heading):
        code = block(heading)
        monkeypatch.chdir(home)
        variables: dict = {}
        exec(compile(code, f"{PAGE.name}, {heading}", "exec"), variables)
        return variables

    return run_block


def hidden_states(folder, texts):
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(**tokenizer(texts, return_tensors="pt", padding=True)).last_hidden_state


def test_every_block_of_the_page_is_run_here():
    headings = re.findall(r"^## (.*)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    tested = re.findall(r'(?:run|block)\("(.*?)"\)', Path(__file__).read_text(encoding="utf-8"))
    assert sorted(headings) == sorted(tested)


def test_pipelines(run, home):
    found = run("Pipelines")
    expected = hidden_states(home / "my_model", ["a small encoder"])
    torch.testing.assert_close(found["vectors"], expected, rtol=1e-5, atol=1e-6)
    assert len(found["guesses"]) == 5 and sum(guess["score"] for guess in found["guesses"]) <= 1
    classifier = AutoModelForSequenceClassification.from_pretrained("my_classifier").eval()
    tagger = AutoModelForTokenClassification.from_pretrained("my_tagger").eval()
    batch = AutoTokenizer.from_pretrained("my_model")("a small encoder", return_tensors="pt")
    with torch.no_grad():
        best = classifier(**batch).logits[0].softmax(-1).max(-1)
        tags = tagger(**batch).logits[0, 1:-1].softmax(-1).max(-1)  # (tokens,): without [CLS] and [SEP]
    assert found["label"]["label"] == f"LABEL_{best.indices}"
    assert found["label"]["score"] == pytest.approx(best.values.item(), abs=1e-5)
    # Words side by side with one tag are one entity, as no tag of this model says where one begins.
    words = zip(("a", "small", "encoder"), tags.indices.tolist(), tags.values.tolist(), strict=True)
    expected = [(tag, list(group)) for tag, group in groupby(words, key=lambda word: word[1])]
    assert [entity["word"] for entity in found["entities"]] == [
        " ".join(w for w, *_ in group) for _, group in expected
    ]
    assert [entity["entity_group"] for entity in found["entities"]] == [f"LABEL_{tag}" for tag, _ in expected]
    scores = [sum(score for *_, score in group) / len(group) for _, group in expected]
    assert [entity["score"] for entity in found["entities"]] == pytest.approx(scores, abs=1e-5)


def test_answers_without_a_pipeline(run):
    found = run("Answers without a pipeline")
    words = found["answer"].split()
    assert words and found["answer"] in found["context"]
    scores = found["scores"]
    assert scores.max() == max(
        found["output"].start_logits[0, i] + found["output"].end_logits[0, j]
        for i in range(len(scores))
        for j in range(i, len(scores))
        if found["in_context"][i] and found["in_context"][j]
    )


def test_sentence_transformers(run, home):
    found = run("Sentence Transformers")
    losses = [entry["loss"] for entry in found["trainer"].state.log_history if "loss" in entry]
    print("sentence-transformers: mean loss of every five steps", losses)
    assert len(losses) == 4 and losses[-1] < losses[0] / 2
    texts, embeddings = ["a small encoder", "the old house"], found["embeddings"]
    np.testing.assert_allclose(embeddings, found["model"].encode(texts), rtol=1e-5, atol=1e-6)
    # Mean pooling over the real tokens: a longer neighbour makes the second row padded.
    padded = found["model"].encode(["a longer text by an old encoder", texts[1]])[1]
    pooled = hidden_states(home / "my_sentences", texts[1:]).mean(dim=1)[0]
    np.testing.assert_allclose(padded, pooled, rtol=1e-5, atol=1e-6)
    anchors = found["model"].encode(["an encoder", "a house"])
    similarity = np.asarray(found["model"].similarity(embeddings, anchors))
    assert (similarity.argmax(axis=1) == [0, 1]).all()  # trained: each finds its own


def test_splade(run, home):
    found = run("SPLADE by Sentence Transformers")
    texts = ["a small encoder", "the old house"]
    batch = AutoTokenizer.from_pretrained("my_model")(texts, return_tensors="pt")
    with torch.no_grad():
        logits = AutoModelForMaskedLM.from_pretrained("my_model").eval()(**batch).logits
    expected = logits.relu().log1p().amax(dim=1)  # SPLADE's weights; no row is padded
    for encoder in (found["splade"], found["same"]):
        torch.testing.assert_close(encoder.encode(texts).to_dense().cpu(), expected, rtol=1e-5, atol=1e-6)
    best = expected.topk(3).indices[0]
    assert [token for token, _ in found["tokens"][0]] == [WORDS[i] for i in best]
    unwanted = SparseEncoder("my_model", trust_remote_code=True)
    assert type(unwanted[-1]).__name__ == "SparseAutoEncoder"  # of which the page warns


def test_words_one_by_one(run, home):
    found = run("Words one by one")
    before = AutoTokenizer.from_pretrained("gpt2_like_tokenizer")
    for tokenizer in (found["tokenizer"], AutoTokenizer.from_pretrained("my_tokenizer")):
        assert found["ids"] == tokenizer("The old house")["input_ids"]
        # All but the first word of a text stays as it was.
        assert tokenizer(" The old house.")["input_ids"] == before(" The old house.")["input_ids"]
    assert before(found["words"], is_split_into_words=True)["input_ids"] != before("The old house")["input_ids"]


def test_setfit(run):
    found = run("SetFit")
    assert found["predictions"].tolist() == [0, 1]
    before = hidden_states("my_model_stock/discriminator", ["a small encoder"]).mean(dim=1)[0]
    after = torch.as_tensor(found["classifier"].model_body.encode("a small encoder"))
    assert not torch.allclose(before, after, atol=1e-3)


def test_peft(run):
    found = run("LoRA by PEFT")
    batch, lora, merged = found["batch"], found["lora"], found["merged"]
    original = AutoModelForSequenceClassification.from_pretrained("my_classifier").eval()
    with torch.no_grad():
        trained, loaded, before = (model(**batch).logits for model in (lora, merged, original))
    torch.testing.assert_close(loaded, trained, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(before, trained, atol=1e-2)
    changed = {name for name, p in merged.named_parameters() if not torch.equal(p, original.get_parameter(name))}
    assert changed and all(re.search(r"(query|value)\.weight|classifier", name) for name in changed)
    assert trained.argmax(-1).tolist() == [0, 1]


def merged_difference(model, **settings) -> float:
    """How far the logits of `model` with a random adapter are from those after merging."""
    torch.manual_seed(0)
    batch = {"input_ids": torch.tensor([[0, 5, 8, 11, 1]])}
    lora = get_peft_model(model, LoraConfig(r=4, **settings)).eval()
    with torch.no_grad():
        for name, parameter in lora.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.1)
        before = lora.get_base_model()(**batch).logits
        return float((lora.merge_and_unload()(**batch).logits - before).abs().max())


def test_adapters_on_the_word_embeddings_merge_where_the_model_is_one_network(home):
    for name, auto in (
        ("my_classifier", AutoModelForSequenceClassification),
        ("my_model_stock/discriminator", AutoModelForPreTraining),
    ):
        model = auto.from_pretrained(home / name)
        assert merged_difference(model, target_modules=["word_embeddings"]) < 1e-5


def test_adapters_on_a_table_that_two_networks_share_are_refused(home):
    for layer in ("word_embeddings", "generator_lm_head"):
        model = AutoModelForPreTraining.from_pretrained(home / "my_model")
        with pytest.raises(ValueError, match=rf"{layer}.* use the same weight"):
            merged_difference(model, target_modules=[layer])
    model = AutoModelForPreTraining.from_pretrained(home / "my_model")
    assert merged_difference(model, target_modules=["query", "value"]) < 1e-5


def test_peft_knows_what_to_adapt_in_an_exported_folder_alone(home):
    stock = AutoModelForSequenceClassification.from_pretrained(home / "my_model_stock/discriminator")
    assert get_peft_model(stock, LoraConfig()).peft_config["default"].target_modules == {"query", "value"}
    own = AutoModelForSequenceClassification.from_pretrained(home / "my_model")
    with pytest.raises(ValueError, match="target_modules"):
        get_peft_model(own, LoraConfig())


def test_onnx(run):
    found = run("ONNX")
    with torch.no_grad():
        expected = found["model"](**found["other"]).last_hidden_state
    largest = np.abs(found["hidden"] - expected.numpy()).max()
    print(f"ONNX: largest difference {largest:.1e}")
    assert largest < 1e-4


def test_onnx_by_optimum(home):
    if "OPTIMUM_PYTHON" not in os.environ:
        pytest.skip(
            "Optimum has an environment of its own: give its Python as OPTIMUM_PYTHON, or use make test-clients"
        )
    code = block("ONNX by Optimum") + 'import numpy\nnumpy.savez("optimum.npz", hidden=hidden, **batch)\n'
    command = [os.environ["OPTIMUM_PYTHON"], "-c", code]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    saved = {name: torch.from_numpy(values) for name, values in np.load(home / "optimum.npz").items()}
    hidden = saved.pop("hidden")
    with torch.no_grad():
        expected = AutoModel.from_pretrained(home / "my_model_stock/discriminator").eval()(**saved).last_hidden_state
    largest = (hidden - expected).abs().max()
    print(f"Optimum: largest difference {largest:.1e}")
    assert largest < 1e-4


def test_special_tokens_of_ones_own_load_in_transformers_4(home, tmp_path):
    if "OPTIMUM_PYTHON" not in os.environ:
        pytest.skip("Transformers 4 has an environment of its own: give its Python as OPTIMUM_PYTHON")
    tokenizer = AutoTokenizer.from_pretrained(home / "my_model")
    tokenizer.add_special_tokens({"additional_special_tokens": ["[URL]"]})
    model = SpanElectraForPreTraining.from_pretrained(home / "my_model")
    model.resize_token_embeddings(len(tokenizer))
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "model")
    export(tmp_path / "model", tmp_path / "stock")
    code = (
        "import sys, transformers as t; tokenizer = t.AutoTokenizer.from_pretrained(sys.argv[1]); "
        "print(t.__version__, *tokenizer.tokenize('the old [URL] house'), *tokenizer('a [URL]')['input_ids'])"
    )
    for half in ("discriminator", "generator"):
        command = [os.environ["OPTIMUM_PYTHON"], "-c", code, str(tmp_path / "stock" / half)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        version, *pieces = done.stdout.split()
        assert version.startswith("4."), done.stderr[-3000:]
        loaded = AutoTokenizer.from_pretrained(tmp_path / "stock" / half)
        assert pieces == ["the", "old", "[URL]", "house", *map(str, loaded("a [URL]")["input_ids"])]


def test_torch_export(run):
    found = run("torch.export")
    with torch.no_grad():
        expected = found["model"](**found["other"]).last_hidden_state
    torch.testing.assert_close(found["hidden"], expected, rtol=1e-5, atol=1e-5)


def test_torchao(run, home):
    found = run("8 bits by torchao")
    with torch.no_grad():
        exact = AutoModel.from_pretrained("my_model_stock/discriminator").eval()(**found["batch"]).last_hidden_state
        quantized = found["model"].eval()(**found["batch"]).last_hidden_state
    assert torch.equal(found["hidden"], quantized)
    similarity = torch.nn.functional.cosine_similarity(exact, quantized, dim=-1).min()
    whole, small = (
        (home / folder / "model.safetensors").stat().st_size
        for folder in ("my_model_stock/discriminator", "my_int8_model")
    )
    print(f"torchao: smallest cosine similarity {similarity:.5f}, {small} bytes for {whole}")
    assert similarity > 0.999 and small < whole / 2
