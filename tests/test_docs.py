"""README and docs/: every command and every Python block is run on a small text, or the table says why not."""

import json
import os
import pydoc
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import datasets
import pytest
import yaml
from accelerate.commands.launch import launch_command_parser
from trainer_examples import make_trainer, tiny_model
from transformers import BertConfig, BertModel, ElectraConfig, ElectraForMaskedLM, ElectraForPreTraining

import span_electra
from span_electra import SpanElectraConfig, run_finetuning, run_pretraining
from span_electra.cli.launch import split
from span_electra.common.command_line import option_types
from span_electra.pretraining.arguments import GROUPS
from span_electra.tokenization.create_features import create_features
from span_electra.tokenization.train_tokenizer import train_tokenizer

ROOT = Path(span_electra.__file__).parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LANGUAGES = {"sh", "python", "json", "text"}  # of which text is output, and nothing to run

# How a block begins that is not run here, and why. Options are checked all the same.
NOT_RUN = {
    "make demo": "takes minutes, and its steps are those of the other blocks",
    "span-electra pretrain configs/recipes/small.yaml --num_processes 8": "needs GPUs",
    "pip install -e .": "changes the environment that runs the tests",
    ".venv/bin/python -m pytest": "runs other tests",
    "python benchmarks/ladder.py": "takes hours; tests/test_benchmarks.py runs a short one",
    "python benchmarks/streaming.py": "reads ten million tokens",
    "accelerate launch --num_processes 1": "needs a GPU",
    "accelerate launch --config_file configs/accelerate/ddp.yaml --num_processes 8": "needs GPUs",
    "accelerate launch --config_file configs/accelerate/ddp.yaml --num_machines 2": "needs two machines",
    "accelerate launch run_pretraining.py configs/recipes/small.yaml --train_file my_features \\\n"
    "    --tokenizer my_tokenizer --output_dir my_model \\\n    --push_to_hub": "needs an account on the Hub",
    "from transformers import AutoModel\n\nfor step in": "needs a repository on the Hub",
    "hf upload": "needs an account on the Hub",
    "pip install datatrove": "needs an environment of its own",
    "# write_shards.py": "needs datatrove",
}
# What is made smaller, so that a run takes seconds.
SHORTENED = {
    r"--max_steps \d+": "--max_steps 2",
    r"max_steps=[\d_]+, eval_steps=\d+": "max_steps=2, eval_steps=2, per_device_train_batch_size=4",
    r"--seeds 5": "--seeds 2",
    r"--workers 8": "--workers 2",
    r"(--extend_vocabulary|--size) \d+": r"\1 3",
    r"--num_cpu_threads_per_process 8": "--num_cpu_threads_per_process 1",
    r"pretrain small\.yaml": "pretrain configs/recipes/small.yaml",
}
SMALL_RECIPE = {"config": "tiny", "max_steps": 2, "warmup_steps": 1, "eval_steps": 2, "save_steps": 2}
SMALL_RECIPE |= {"per_device_train_batch_size": 8, "dataloader_num_workers": 0}


@dataclass
class Block:
    page: Path
    line: int
    language: str
    code: str

    @property
    def reason(self) -> str | None:
        """Why it is not run here."""
        if self.page.name == "clients.md" and self.language == "python":
            return "make test-clients runs it, in an environment with those libraries"
        reasons = [reason for start, reason in NOT_RUN.items() if self.code.startswith(start)]
        return reasons[0] if reasons else None

    @property
    def outputs(self) -> list[str]:
        return re.findall(r"--output_dir (\S+)", self.code) if self.language == "sh" else []

    def __str__(self):
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks() -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^( *)```(\w*)\n(.*?)^\1```$", text, flags=re.DOTALL | re.MULTILINE):
            line = text.count("\n", 0, match.start()) + 1
            found.append(Block(page, line, match[2], textwrap.dedent(match[3])))
    return found


BLOCKS = blocks()
RUN = [block for block in BLOCKS if block.language in ("sh", "python") and block.reason is None]
CHECKED = [block for block in BLOCKS if block.language in ("sh", "python") and block.reason is not None]


def test_no_block_escapes():
    assert {block.language for block in BLOCKS} <= LANGUAGES
    fences = sum(len(re.findall(r"^ *```", page.read_text(encoding="utf-8"), re.MULTILINE)) for page in PAGES)
    assert fences == 2 * len(BLOCKS)
    for start in NOT_RUN:
        assert any(block.code.startswith(start) for block in BLOCKS), f"no block begins with {start!r} any more"


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "json"], ids=str)
def test_a_configuration_on_a_page_is_accepted(block):
    settings = json.loads(block.code)
    config = SpanElectraConfig(**settings)
    assert {name: getattr(config, name) for name in settings} == settings


def test_links_between_pages_lead_somewhere():
    for page in [*PAGES, ROOT / "configs" / "README.md"]:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"


# --- the site -----------------------------------------------------------------------------------------------------

SITE = runpy.run_path(str(ROOT / "docs" / "site.py"))


def test_every_page_is_in_the_navigation_of_the_site():
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    pages = re.findall(r"'([\w.]+\.md)'", str(navigation))
    elsewhere = [name for name in SITE["FROM_ELSEWHERE"].values() if name.endswith(".md")]
    assert sorted(pages) == sorted([*(path.name for path in (ROOT / "docs").glob("*.md")), *elsewhere])


def test_the_reference_holds_everything_that_the_package_exports_and_nothing_that_is_gone():
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    names = re.findall(r"^::: (\S+)$", text, re.MULTILINE)
    assert {f"span_electra.{name}" for name in span_electra.__all__} <= set(names)
    assert [name for name in names if pydoc.locate(name) is None] == []


@pytest.mark.parametrize(
    ("source", "link", "on_site"),
    [
        ("README.md", "docs/training.md", "training.md"),
        ("README.md", "docs/training.md#from-python", "training.md#from-python"),
        ("README.md", "docs/objective.svg", "objective.svg"),
        ("README.md", "https://arxiv.org", "https://arxiv.org"),
        ("docs/training.md", "#resuming", "#resuming"),
        ("docs/training.md", "../README.md", "index.md"),
        ("docs/training.md", "../configs", "https://github.com/you/spans/blob/main/configs"),
        ("docs/training.md", "../missing.py", "../missing.py"),  # stays dead, for the build to report
    ],
)
def test_a_link_leads_on_the_site_where_it_leads_on_github(source, link, on_site, monkeypatch):
    monkeypatch.setenv("GITHUB_REPOSITORY", "you/spans")
    assert SITE["with_links_of_site"](f"a [link]({link}).", source) == f"a [link]({on_site})."


def test_the_layout_names_every_module():
    text = (ROOT / "docs" / "layout.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| \[`(\w+)/`\]\(\S+\) \|.*?\|(.*)\|$", text, re.MULTILINE))
    for folder, row in rows.items():
        modules = {path.stem for path in (ROOT / folder).glob("*.py")} - {"__init__"}
        assert modules == set(re.findall(r"`(\w+)`", row)), folder
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} == rows.keys()


# --- blocks that are run ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder that holds whatever the pages take for granted, by the names that they use."""
    home = tmp_path_factory.mktemp("home")
    words = [f"word{i**2}" for i in range(40)]
    documents = [" ".join(words[i % 17 : 17 + i % 23]) + ".\n\n" for i in range(480)]
    for folder in ("corpus", "shards"):
        (home / folder).mkdir()
    for shard in range(8):
        part = documents[shard::8]
        (home / "corpus" / f"{shard}.txt").write_text("".join(part), encoding="utf-8")
        datasets.Dataset.from_dict({"text": part}).to_parquet(home / "shards" / f"{shard}.parquet")
    (home / "held_out.txt").write_text("".join(documents[:60]), encoding="utf-8")
    examples = [json.dumps({"text": text.strip(), "label": i % 2}) + "\n" for i, text in enumerate(documents[:40])]
    for name in ("train.jsonl", "dev.jsonl", "reviews.jsonl"):
        (home / name).write_text("".join(examples), encoding="utf-8")
    tags = [{"tokens": text.split(), "ner_tags": ["B-x", *"O" * text.count(" ")]} for text in documents[:40]]
    (home / "ner.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tags), encoding="utf-8")

    for script in ("run_pretraining.py", "run_finetuning.py"):
        (home / script).symlink_to(ROOT / script)
    # As installed: under this name, importing the package registers no models.
    command = home / "bin" / "span-electra"
    command.parent.mkdir()
    command.write_text(f"#!{sys.executable}\nfrom span_electra.cli.main import main\n\nmain()\n")
    command.chmod(0o755)
    for path in (ROOT / "configs" / "recipes").glob("*.yaml"):
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
        (home / "configs" / "recipes").mkdir(parents=True, exist_ok=True)
        (home / "configs" / "recipes" / path.name).write_text(yaml.safe_dump(recipe | SMALL_RECIPE))

    tokenizer = train_tokenizer([home / "corpus"], home / "my_tokenizer", vocab_size=300)
    create_features([home / "corpus"], str(home / "my_tokenizer"), home / "my_features")
    for name in ("my_model", "my_short_model", "runs/demo/model"):
        tiny_model(vocab_size=len(tokenizer), max_position_embeddings=128).save_pretrained(home / name)
        tokenizer.save_pretrained(home / name)
    shape = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    shape |= {"intermediate_size": 64, "pad_token_id": tokenizer.pad_token_id}
    others = {
        "google-bert/bert-base-uncased": BertModel(BertConfig(**shape)),
        "google/electra-small-discriminator": ElectraForPreTraining(ElectraConfig(**shape, embedding_size=16)),
        "google/electra-small-generator": ElectraForMaskedLM(ElectraConfig(**shape, embedding_size=16)),
    }
    for name, model in others.items():
        model.save_pretrained(home / name)
        tokenizer.save_pretrained(home / name)
    return home


@pytest.mark.slow
@pytest.mark.parametrize("block", RUN, ids=str)
def test_a_block_runs_as_it_stands_but_for_its_length(block, home, tmp_path):
    folder = tmp_path / "home"
    shutil.copytree(home, folder, symlinks=True)
    for output in block.outputs:
        shutil.rmtree(folder / output, ignore_errors=True)
    if "--resume_from_checkpoint" in block.code:  # what it resumes
        execute(block.language, block.code.replace(" --resume_from_checkpoint true", ""), folder)
    execute(block.language, block.code, folder)
    for output in block.outputs:
        if "--plan" in block.code:
            assert not (folder / output).exists()
        else:
            assert any((folder / output).iterdir()), f"{output} is empty"


def execute(language: str, code: str, folder: Path) -> None:
    for pattern, shorter in SHORTENED.items():
        code = re.sub(pattern, shorter, code, flags=re.MULTILINE)
    path = os.pathsep.join([str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}
    environment |= {"HF_HOME": str(folder / "cache"), "ACCELERATE_USE_CPU": "true", "PYTHONWARNINGS": "default"}
    command = ["bash", "-ec", code] if language == "sh" else [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_callback_schedules_a_loss_weight_as_the_page_says(tokenizer, tmp_path):
    (block,) = [block for block in BLOCKS if "class RampUp" in block.code]
    variables: dict = {}
    exec(compile(block.code, str(block), "exec"), variables)
    weights = []

    class Record(variables["TrainerCallback"]):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            weights.append(model.config.sbpo_weight)

    trainer = make_trainer(tokenizer, tmp_path, max_steps=4)
    trainer.add_callback(variables["RampUp"](2))
    trainer.add_callback(Record())
    trainer.train()
    assert weights == [0, 2.5, 5, 5] and trainer.model.config.sbpo_weight == 5


# --- blocks that are not ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", CHECKED, ids=str)
def test_a_block_that_is_not_run_has_options_that_exist(block, monkeypatch):
    if block.language == "python":
        compile(block.code, str(block), "exec")
        return
    monkeypatch.chdir(ROOT)
    for line in block.code.replace("\\\n", " ").splitlines():
        check_command(shlex.split(line))


def check_command(words: list[str]) -> None:
    if words[:2] == ["accelerate", "launch"]:
        launched = launch_command_parser().parse_args(words[2:])
        words = ["python", launched.training_script, *launched.training_script_args]
    if words[:2] == ["span-electra", "pretrain"]:
        _, arguments = split(words[2:], {*option_types(GROUPS)})
        words = ["python", "run_pretraining.py", *arguments]
    match words:
        case ["python", "run_pretraining.py", *arguments]:
            run_pretraining.parse_arguments([*arguments, "--use_cpu", "true"])  # bf16 needs it where there is no GPU
        case ["python", "run_finetuning.py", *arguments]:
            run_finetuning.parse_arguments(arguments)
        case ["python", script, *arguments] if script.startswith("benchmarks/"):
            options = re.findall(r'add_argument\("(--\w+)"', (ROOT / script).read_text())
            assert {word for word in arguments if word.startswith("--")} <= set(options)
        case ["make", target]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        case [_, "-m", "pytest", path]:
            assert (ROOT / path).exists()
        case ["pip", "install", *_] | ["hf", "upload", _, _] | ["python", "write_shards.py"]:
            pass
        case _:
            raise AssertionError(f"nothing here checks {shlex.join(words)}")
