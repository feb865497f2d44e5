"""Publishing, with the real client against a Hub on loopback: what arrives there, who may send it, and what a stranger
can do with it."""

import json
import os
import re
import subprocess
import sys
import textwrap
from concurrent.futures import Future
from pathlib import Path

import pytest
import torch
from hub_server import Hub, Repository
from huggingface_hub import ModelCard, constants
from transformers import AutoTokenizer

from span_electra import SpanElectraConfig, SpanElectraForPreTraining
from span_electra.common.errors import InputError
from span_electra.hub.model_cards import card_metadata
from span_electra.hub.publishing import prepare_repository, push_run, tag_checkpoint
from span_electra.pretraining.arguments import PretrainingArguments
from span_electra.pretraining.model_card import model_card
from span_electra.tokenization.train_tokenizer import train_tokenizer
from span_electra.training.output_dir import LOCK, start_run

# The client's own upload, where it runs in this process.
UPLOADS_HERE = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
TOKEN = "hf_adasOwnSecretToken"
CODE = ("modeling_span_electra.py", "span_objectives.py", "configuration_span_electra.py")
SIZES = {"embedding_size": 16, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 64, "max_position_embeddings": 64}
EVALUATION = {"generator_accuracy": 0.25, "discriminator_auc": 0.75, "discriminator_f1": float("nan"), "mlm_loss": 4.5}
SETTINGS = {"train_file": ["wikimedia/wikipedia:20231101.en"], "output_dir": "out", "hub_model_id": "ada/spans"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with text, a tokenizer and a configuration."""
    home = tmp_path_factory.mktemp("home")
    words = [f"word{i**2}" for i in range(21)]
    lines = [" ".join(words[i % 7 : 5 + i % 13 + i % 11]) for i in range(300)]
    (home / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    (home / "tiny.json").write_text(json.dumps(SIZES))
    train_tokenizer([home / "text.txt"], home / "tokenizer", vocab_size=280)
    return home


@pytest.fixture
def hub():
    with Hub() as hub:
        hub.add_account("ada", TOKEN)
        hub.add_account("guest", "hf_reader", may_write=False)
        yield hub


def environment(hub: Hub, folder: Path, **changes: str) -> dict[str, str]:
    """That of a process of its own, whose only Hub is this one and whose cache is empty."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    ours = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "cache"), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN}
    return kept | ours | {"HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"} | changes


def pretrain(hub: Hub, home: Path, output_dir: Path, *options: str, **variables: str) -> subprocess.CompletedProcess:
    """`run_pretraining.py` in a process of its own, with --push_to_hub."""
    fixed = f"""--config {home / "tiny.json"} --tokenizer {home / "tokenizer"} --train_file {home / "text.txt"}
        --output_dir {output_dir} --features_cache_dir {output_dir.parent / "features"} --max_steps 4
        --per_device_train_batch_size 4 --per_device_eval_batch_size 8 --max_seq_length 32 --documents file
        --validation_split_percentage 10 --logging_steps 1 --save_steps 2 --eval_steps 2 --use_cpu true
        --disable_tqdm true --push_to_hub true --hub_model_id ada/spans"""
    return subprocess.run(
        [sys.executable, "-m", "span_electra.run_pretraining", *fixed.split(), *options],
        env=environment(hub, output_dir.parent, **variables),
        cwd=output_dir.parent,
        capture_output=True,
        text=True,
    )


def python(program: str, hub: Hub, folder: Path, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=environment(hub, folder, **variables),
        cwd=folder,
        capture_output=True,
        text=True,
    )


# --- the journey -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(home, tmp_path_factory):
    """A Hub, the folder of a run that was published there, and what the run printed."""
    pytest.importorskip("tensorboard", reason="the run's logs must not be published, so it has to write some")
    folder = tmp_path_factory.mktemp("published")
    with Hub() as hub:
        hub.add_account("ada", TOKEN)
        options = ("--hub_token", TOKEN, "--license", "mit", "--language", "en", "--report_to", "tensorboard")
        result = pretrain(hub, home, folder / "out", *options, HF_TOKEN="")
        assert result.returncode == 0, result.stderr
        yield hub, folder / "out", result.stdout + result.stderr


@pytest.mark.slow
def test_a_stranger_gets_everything_and_nothing_else(published):
    hub, folder, _ = published
    sent = set(hub.repositories["ada/spans"].files)
    model = {"config.json", "model.safetensors", *CODE}
    tokenizer = {"tokenizer.json", "tokenizer_config.json"}
    report = {"README.md", "curves.png", "history.json", "arguments.json", ".gitignore"}
    assert sent == model | tokenizer | report
    kept = {path.name for path in folder.iterdir()} - sent
    assert kept == {"checkpoint-2", "checkpoint-4", "runs", "training_args.bin", "samples.html", LOCK}
    assert len(json.loads(hub.repositories["ada/spans"].files["config.json"])["auto_map"]) == 9


@pytest.mark.slow
def test_every_commit_is_a_whole_model_with_its_card(published):
    hub, _, _ = published
    (_, first), *commits = hub.repositories["ada/spans"].commits
    assert not first and len(commits) > 1
    for message, files in commits:
        assert {"model.safetensors", "modeling_span_electra.py", "tokenizer.json", "curves.png"} <= set(files), message
        assert "# SpanElectra" in files["README.md"].decode(), message


@pytest.mark.slow
def test_the_token_is_nowhere(published):
    hub, folder, printed = published
    assert TOKEN not in printed
    for path in folder.rglob("*"):
        assert path.is_dir() or TOKEN.encode() not in path.read_bytes(), path
    assert not any(TOKEN in request for request in hub.requests)


@pytest.mark.slow
def test_the_card_on_the_hub_holds_the_metrics_of_the_last_evaluation(published, tmp_path):
    hub, folder, _ = published
    history = json.loads((folder / "history.json").read_text())["history"]
    evaluation = [entry for entry in history if "eval_loss" in entry][-1]
    program = """
        import json
        from huggingface_hub import ModelCard
        data = ModelCard.load("ada/spans").data
        results = {result.metric_name: result.metric_value for result in data.eval_results}
        print(json.dumps([data.license, data.language, data.pipeline_tag, data.model_name, results]))
    """
    result = python(program, hub, tmp_path, HF_TOKEN="")
    assert result.returncode == 0, result.stderr
    *rest, results = json.loads(result.stdout)
    assert rest == ["mit", ["en"], "feature-extraction", "spans"]
    assert results["discriminator auc"] == evaluation["eval_discriminator_auc"]
    assert results["generator accuracy"] == evaluation["eval_generator_accuracy"]


STRANGER = """
    import sys
    class NoSuchPackage:
        def find_spec(self, name, *rest):
            if name.split(".")[0] == "span_electra":
                raise ModuleNotFoundError(name)
    sys.meta_path.insert(0, NoSuchPackage())
    import torch
    from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, ElectraModel
    name = "ada/spans"
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=True)
    batch = tokenizer(["word1 word4", "word9 word16 word25"], padding=True, return_tensors="pt")
    ours = AutoModel.from_pretrained(name, trust_remote_code=True).eval()
    stock = ElectraModel.from_pretrained(name).eval()
    assert torch.allclose(ours(**batch).last_hidden_state, stock(**batch).last_hidden_state, atol=1e-6)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(name, trust_remote_code=True, num_labels=2)
    encoder = dict(model.electra.named_parameters())
    assert all(torch.equal(weight, encoder[key]) for key, weight in ours.named_parameters())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(12):
        loss = model(**batch, labels=torch.tensor([0, 1])).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert "span_electra" not in sys.modules
    print(len(tokenizer), losses[0], losses[-1])
"""


@pytest.mark.slow
def test_a_stranger_loads_it_by_name_and_fine_tunes_it(published, tmp_path):
    hub, _, _ = published
    result = python(STRANGER, hub, tmp_path, HF_TOKEN="", PYTHONPATH="")
    assert result.returncode == 0, result.stderr
    tokens, first, last = result.stdout.split()
    assert tokens == "280"
    assert float(last) < float(first) / 2


@UPLOADS_HERE
def test_a_run_is_published_without_what_else_is_in_its_folder(hub, client, finished_run, home):
    client.setenv("HF_TOKEN", TOKEN)
    train_tokenizer([home / "text.txt"], finished_run / "tokenizer", vocab_size=280)
    AutoTokenizer.from_pretrained(home / "tokenizer").save_pretrained(finished_run)
    for name in ("vocab_notes_private.txt", "tokenizer_todo.md", "diary.md", "model.py"):
        (finished_run / name).write_text("mine")
    for name in ("history.json", "samples.html"):
        (finished_run / name).write_text("{}")
    push_run(finished_run, "ada/again", tags=["mine", "electra"])
    _, (_, files) = hub.repositories["ada/again"].commits
    model = {"config.json", "model.safetensors", *CODE, "tokenizer.json", "tokenizer_config.json"}
    assert set(files) - {".gitattributes"} == model | {"README.md", "history.json", "arguments.json"}
    assert files["model.safetensors"] == (finished_run / "model.safetensors").read_bytes()
    assert ModelCard(files["README.md"].decode()).data.tags == ["span-electra", "electra", "mine"]
    assert "mine" not in ModelCard.load(finished_run / "README.md").data.tags


@UPLOADS_HERE
def test_weights_in_several_files_are_all_published(hub, client, tmp_path):
    SpanElectraForPreTraining(SpanElectraConfig(vocab_size=99, **SIZES)).save_pretrained(
        tmp_path, max_shard_size="50KB"
    )
    push_run(tmp_path, "spans", token=TOKEN, private=True)
    shards = {path.name for path in tmp_path.glob("model-*.safetensors")}
    assert len(shards) > 1
    assert shards | {"model.safetensors.index.json"} <= set(hub.repositories["ada/spans"].files)


def test_a_run_that_kept_its_models_in_checkpoints_is_not_published(hub, client, tmp_path):
    (tmp_path / "checkpoint-4").mkdir()
    with pytest.raises(InputError, match=r"has no config\.json.*checkpoint-4"):
        push_run(tmp_path, "ada/spans", token=TOKEN)
    assert not hub.repositories


@pytest.mark.slow
def test_a_published_run_loads_with_its_weights(published, tmp_path):
    hub, folder, _ = published
    program = f"""
        import torch
        from span_electra import SpanElectraForPreTraining
        from span_electra.hub.publishing import push_run
        push_run({str(folder)!r}, "ada/again")
        again = SpanElectraForPreTraining.from_pretrained("ada/again")
        first = SpanElectraForPreTraining.from_pretrained({str(folder)!r})
        assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in first.state_dict().items())
    """
    result = python(program, hub, tmp_path)
    assert result.returncode == 0, result.stderr
    first, again = hub.repositories["ada/spans"], hub.repositories["ada/again"]
    assert set(again.files) == set(first.files) - {".gitignore"}
    assert ModelCard(again.files["README.md"].decode()).data.license == "mit"


@pytest.mark.slow
def test_a_new_model_takes_nothing_along_from_where_it_is_published(hub, tmp_path):
    (tmp_path / "README.md").write_text("# My diary")
    program = f"""
        from span_electra import SpanElectraConfig, SpanElectraForPreTraining
        SpanElectraForPreTraining(SpanElectraConfig(vocab_size=99, **{SIZES})).push_to_hub("ada/new")
    """
    result = python(program, hub, tmp_path)
    assert result.returncode == 0, result.stderr
    files = hub.repositories["ada/new"].files
    assert "diary" not in files["README.md"].decode()
    assert {"model.safetensors", "config.json", *CODE} < set(files)


# --- interruptions -----------------------------------------------------------------------------------------------


def upload(hub: Hub, folder: Path) -> subprocess.Popen:
    program = "import sys, huggingface_hub as h; h.HfApi().upload_folder(repo_id='ada/spans', folder_path=sys.argv[1])"
    return subprocess.Popen(
        [sys.executable, "-c", program, str(folder)],
        env=environment(hub, folder.parent),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.fixture
def finished_run(tmp_path):
    """A folder like that of a finished run."""
    folder = tmp_path / "run"
    start_run(str(folder), SETTINGS, resumes=False)
    SpanElectraForPreTraining(SpanElectraConfig(vocab_size=99, **SIZES)).save_pretrained(folder)
    model_card(SETTINGS, []).save(folder / "README.md")
    (folder / "checkpoint-2").mkdir()
    (folder / "checkpoint-2" / "optimizer.pt").write_bytes(b"large")
    (folder / "training_args.bin").write_bytes(b"pickled")
    return folder


def test_a_killed_upload_shows_nothing_and_its_repetition_completes(hub, finished_run):
    hub.repositories["ada/spans"] = Repository()
    hub.hangs_in_uploads = True
    client = upload(hub, finished_run)
    assert hub.upload_hangs.wait(60)
    client.kill()
    client.wait()
    assert not hub.repositories["ada/spans"].files
    hub.hangs_in_uploads = False
    assert upload(hub, finished_run).wait() == 0
    files = hub.repositories["ada/spans"].files
    assert files["model.safetensors"] == (finished_run / "model.safetensors").read_bytes()
    assert {"README.md", "config.json", "modeling_span_electra.py"} <= set(files)


def test_a_lost_commit_shows_nothing_and_its_repetition_sends_the_weights_no_more(hub, finished_run):
    hub.repositories["ada/spans"] = Repository()
    hub.drops_commits = True
    assert upload(hub, finished_run).wait() != 0
    assert not hub.repositories["ada/spans"].files
    hub.drops_commits = False
    assert upload(hub, finished_run).wait() == 0
    assert "model.safetensors" in hub.repositories["ada/spans"].files
    assert len([request for request in hub.requests if request.startswith("PUT")]) == 1


def test_checkpoints_logs_pickles_and_text_stay_at_home_by_whatever_client(hub, finished_run):
    hub.repositories["ada/spans"] = Repository()
    (finished_run / "samples.html").write_text("private text")
    assert upload(hub, finished_run).wait() == 0
    kept = {"checkpoint-2/optimizer.pt", "training_args.bin", "samples.html"}
    assert not kept & set(hub.repositories["ada/spans"].files)
    (finished_run / ".gitignore").write_text("checkpoint-*/\ntraining_args.bin\n")  # as docs/publishing.md asks for
    assert upload(hub, finished_run).wait() == 0
    assert kept & set(hub.repositories["ada/spans"].files) == {"samples.html"}


def test_checkpoints_are_published_where_the_strategy_asks_for_them(tmp_path):
    start_run(str(tmp_path), {"hub_strategy": "all_checkpoints"}, resumes=False)
    assert (tmp_path / ".gitignore").read_text() == ".unfinished/\nruns/\ntraining_args.bin\nsamples.html\n.lock\n"


@pytest.mark.slow
def test_a_run_whose_upload_fails_says_where_the_model_is(hub, home, tmp_path):
    hub.drops_commits = True
    result = pretrain(hub, home, tmp_path / "out")
    assert result.returncode == 1
    assert "error: The upload to ada/spans failed" in result.stderr
    assert f"`hf upload ada/spans {tmp_path / 'out'}` sends it" in result.stderr
    assert "Traceback" not in result.stderr
    assert {"model.safetensors", "README.md"} <= {path.name for path in (tmp_path / "out").iterdir()}


# --- checkpoints as revisions ------------------------------------------------------------------------------------

# What opens each revision, and its encoder's weights in a checkpoint, on a machine without this package.
OPENED = """
    import sys
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoTokenizer
    for step in (2, 4):
        model = AutoModel.from_pretrained("ada/spans", revision=f"step-{step}", trust_remote_code=True)
        assert len(AutoTokenizer.from_pretrained("ada/spans", revision=f"step-{step}")) == 280
        saved = load_file(f"out/checkpoint-{step}/model.safetensors")
        saved = {name.removeprefix("electra.").removeprefix("model."): weight for name, weight in saved.items()}
        assert all(torch.equal(weight, saved[name]) for name, weight in model.state_dict().items())
    assert "span_electra" not in sys.modules
"""


@pytest.mark.slow
@pytest.mark.parametrize("family", ["electra", "modernbert"])
def test_every_checkpoint_is_a_revision_that_a_resumed_run_leaves_alone(hub, home, tmp_path, family):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    (tmp_path / "modernbert.json").write_text(json.dumps({"model_type": "modernbert", **sizes}))
    options = ["--hub_strategy", "all_checkpoints"]
    options += ["--config", str(tmp_path / "modernbert.json")] if family == "modernbert" else []
    result = pretrain(hub, home, tmp_path / "out", *options)
    assert result.returncode == 0, result.stderr
    tags = dict(hub.repositories["ada/spans"].tags)
    assert tags.keys() == {"step-2", "step-4"}
    result = python(OPENED, hub, tmp_path, HF_TOKEN="", PYTHONPATH="")
    assert result.returncode == 0, result.stderr
    if family == "electra":
        resume = ["--resume_from_checkpoint", str(tmp_path / "out" / "checkpoint-2")]
        result = pretrain(hub, home, tmp_path / "out", *options, *resume)
        assert result.returncode == 0 and "already has a revision" not in result.stderr, (
            result.stderr
        )  # it is the same
        assert hub.repositories["ada/spans"].tags == tags


@UPLOADS_HERE
@pytest.mark.parametrize("is_same", [True, False])
def test_a_revision_that_exists_stays_as_it_is(hub, client, finished_run, caplog, is_same):
    model = SpanElectraForPreTraining(SpanElectraConfig(vocab_size=99, **SIZES))
    for _ in range(2):
        model.save_pretrained(finished_run / "checkpoint-2")
        upload = Future()
        upload.set_result(push_run(finished_run / "checkpoint-2", "ada/spans", token=TOKEN))
        tag_checkpoint(finished_run / "checkpoint-2", "ada/spans", upload, TOKEN)
        with torch.no_grad():
            next(model.parameters()).add_(0 if is_same else 1)
    repository = hub.repositories["ada/spans"]
    assert repository.tags == {"step-2": repository.commit_hash(1)}
    warning = "ada/spans already has a revision step-2, which holds another model. It stays as it is"
    assert (warning in caplog.text) == (not is_same)


def test_an_upload_that_failed_makes_no_revision_and_is_named(hub, client, finished_run, caplog):
    hub.repositories["ada/spans"] = Repository()
    upload = Future()
    upload.set_exception(OSError("the cable was cut"))
    tag_checkpoint(finished_run / "checkpoint-2", "ada/spans", upload, TOKEN)
    assert re.search(r"checkpoint-2 was not published as the revision step-2 of ada/spans \(the cable", caplog.text)
    assert not hub.repositories["ada/spans"].tags


def test_a_new_run_is_not_published_beside_the_checkpoints_of_another(hub, client, tmp_path):
    hub.repositories["ada/spans"] = repository = Repository()
    repository.tags = {"v1": repository.commit_hash(), "step-10": repository.commit_hash()}
    arguments = publishing(tmp_path, hub_strategy="all_checkpoints")
    message = r"--hub_model_id ada/spans: has the checkpoints of another run \(step-10\)\. Give a repository"
    with pytest.raises(InputError, match=message):
        prepare_repository(arguments, model_card(SETTINGS, []))
    prepare_repository(arguments, model_card(SETTINGS, []), resumes=True)
    prepare_repository(publishing(tmp_path), model_card(SETTINGS, []))


# --- who may send ------------------------------------------------------------------------------------------------


@pytest.fixture
def client(hub, monkeypatch, tmp_path):
    """This process as a client of the Hub, without a token."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(tmp_path / "no tokens"))
    return monkeypatch


def publishing(tmp_path, **options) -> PretrainingArguments:
    options = {"hub_token": TOKEN, "hub_model_id": "ada/spans"} | options
    return PretrainingArguments(output_dir=str(tmp_path / "out"), use_cpu=True, push_to_hub=True, **options)


def refusal(arguments: PretrainingArguments, **settings) -> str:
    with pytest.raises(InputError) as error:
        prepare_repository(arguments, model_card(SETTINGS | settings, []))
    assert TOKEN not in str(error.value)
    return str(error.value)


def test_a_repository_is_created_and_named_in_full(hub, client, tmp_path):
    arguments = publishing(tmp_path, hub_model_id="spans")
    prepare_repository(arguments, model_card(SETTINGS, []))
    assert arguments.hub_model_id == "ada/spans" and list(hub.repositories) == ["ada/spans"]
    prepare_repository(arguments, model_card(SETTINGS, []))  # what is there may be written to again


def test_without_a_name_the_repository_has_the_folders(hub, client, tmp_path):
    arguments = publishing(tmp_path, hub_model_id=None)
    prepare_repository(arguments, model_card(SETTINGS, []))
    assert arguments.hub_model_id == "ada/out"


def test_the_token_of_the_environment_is_used(hub, client, tmp_path):
    client.setenv("HF_TOKEN", TOKEN)
    prepare_repository(publishing(tmp_path, hub_token=None), model_card(SETTINGS, []))
    assert "ada/spans" in hub.repositories


def test_a_missing_token_is_asked_for(client, tmp_path):
    message = refusal(publishing(tmp_path, hub_token=None))
    assert message.startswith("--push_to_hub: there is no token for http://127.0.0.1")
    assert "`hf auth login`" in message and "HF_TOKEN" in message and "--hub_token" in message


def test_a_wrong_token_is_refused(hub, client, tmp_path):
    message = refusal(publishing(tmp_path, hub_token="hf_typo"))
    assert "rejects the token; log in with `hf auth login`, set HF_TOKEN" in message
    assert "hf_typo" not in message and not hub.repositories


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize(
    "token, name, user", [(TOKEN, "bob/spans", "ada"), ("hf_reader", "guest/spans", "guest")], ids=["other", "reader"]
)
def test_a_repository_that_may_not_be_written_to_is_refused(hub, client, tmp_path, token, name, user, exists):
    if exists:
        hub.repositories[name] = Repository()
    message = refusal(publishing(tmp_path, hub_token=token, hub_model_id=name))
    assert message.startswith(f"--hub_model_id {name}: the token of {user} may not write there; give ")
    assert f"{user}/spans" in message


def test_a_name_that_cannot_be_one_is_refused(hub, client, tmp_path):
    message = refusal(publishing(tmp_path, hub_model_id="ada/my spans"))
    assert message == "--hub_model_id ada/my spans: not a name that the Hub accepts; write it as user/model."


def test_without_a_connection_it_says_how_to_publish_later(client, tmp_path):
    client.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    message = refusal(publishing(tmp_path))
    assert message.startswith("--push_to_hub: http://127.0.0.1:9 cannot be reached (")
    assert "HF_ENDPOINT" in message and f"`hf upload ada/spans {tmp_path / 'out'}`" in message


def test_offline_mode_is_named(client, tmp_path):
    client.setattr(constants, "HF_HUB_OFFLINE", True)
    message = refusal(publishing(tmp_path))
    assert message.startswith("--push_to_hub: HF_HUB_OFFLINE is set; unset it, or leave --push_to_hub out")


@pytest.mark.parametrize("settings", [{"license": "none of your business"}, {"language": ["english"]}])
def test_metadata_that_the_hub_would_refuse_is_refused_before_anything_is_made(hub, client, tmp_path, settings):
    message = refusal(publishing(tmp_path), **settings)
    assert str(next(iter(settings.values()))) in message
    assert "the Hub does not take the model card's metadata" in message and "apache-2.0" in message
    assert not hub.repositories


@pytest.mark.slow
def test_a_wrong_token_ends_a_run_before_it_begins(hub, home, tmp_path):
    result = pretrain(hub, home, tmp_path / "out", HF_TOKEN="hf_typo")
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1].startswith("error: --push_to_hub: http://127.0.0.1")
    assert "hf_typo" not in result.stdout + result.stderr
    assert not (tmp_path / "out").exists() and not (tmp_path / "features").exists()


def test_pickled_arguments_hold_no_token(tmp_path):
    arguments = publishing(tmp_path)
    torch.save(arguments, tmp_path / "training_args.bin")
    assert TOKEN.encode() not in (tmp_path / "training_args.bin").read_bytes()
    assert torch.load(tmp_path / "training_args.bin", weights_only=False).learning_rate == arguments.learning_rate
    assert arguments.hub_token == TOKEN


# --- the card's metadata -----------------------------------------------------------------------------------------


def test_figures_that_are_none_are_left_out_of_the_results():
    results = card_metadata(SETTINGS, {"": EVALUATION}).eval_results
    assert {(result.metric_type, result.metric_value) for result in results} == {("accuracy", 0.25), ("roc_auc", 0.75)}
    assert {result.dataset_name for result in results} == {"wikipedia:20231101.en (rows held back from training)"}
    assert {result.dataset_type for result in results} == {"wikimedia/wikipedia"}


def test_without_an_evaluation_there_are_no_results():
    metadata = model_card(SETTINGS, [{"step": 1, "loss": 30.0, "discriminator_auc": 0.6}]).data.to_dict()
    assert "model-index" not in metadata and "metrics" not in metadata


def test_only_datasets_of_the_hub_are_named_as_such(home):
    files = [str(home / "text.txt"), str(home / "*.txt"), "wikitext:wikitext-2-raw-v1"]
    assert card_metadata({"train_file": files}, {}).datasets == ["wikitext"]
    gone = ["corpus/part-0.txt", "/tmp/gone/part-1.txt", "https://example.org/a.txt"]
    assert card_metadata({"train_file": gone}, {}).datasets is None


def test_what_the_model_began_from_is_named_without_a_path_of_this_machine(home):
    assert model_card({"model_name_or_path": "google/electra-small-discriminator"}, []).data.base_model
    here = {"model_name_or_path": str(home / "tokenizer"), "config": str(home / "tiny.json")}
    card = model_card(here, [])
    assert card.data.base_model is None and str(home) not in str(card)
    assert "steps, starting from tokenizer." in card.text
    assert "| `model_name_or_path` | tokenizer |" in card.text and "| `config` | tiny.json |" in card.text


def test_of_many_files_a_few_are_named(home):
    card = model_card({"train_file": [f"part-{i}.txt" for i in range(3000)]}, [{"step": 9, **EVALUATION}])
    assert "9 steps on part-0.txt, part-1.txt, part-2.txt and 2,997 more" in card.text
    assert len(str(card)) < 10_000


def test_what_is_given_goes_before_what_is_known():
    for tags in (["mine"], "mine"):  # as the library takes them
        card = model_card(SETTINGS, [], license="mit", model_name=None, tags=tags)
        assert card.data.license == "mit" and card.data.tags == ["span-electra", "electra", "mine"]
    assert 'path = "ada/spans"' in card.text
