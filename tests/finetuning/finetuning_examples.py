"""Small data for every task, in which one word decides, and how the tests call the script."""

import json
import random

import torch
from transformers import (
    AutoTokenizer,
)

from span_electra.finetuning.arguments import TaskArguments

torch.set_num_threads(1)  # more cost time on models as small as these
GOOD, BAD = ["great", "lovely", "superb"], ["awful", "dreadful", "boring"]
NEUTRAL = ["film", "music", "city", "story", "evening", "table", "window", "river"]
PEOPLE, PLACES = ["Ada", "Grace", "Alan"], ["Paris", "Rome", "Oslo"]
SURNAMES = ["Lovelace", "Hopper", "Turing"]
SHAPE = {"embedding_size": 16, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SHAPE |= {"intermediate_size": 64, "max_position_embeddings": 64}
# Options by task; what stands in {home} is in the folder of that name.
SCORES = {"task": "regression", "train_file": "{home}/scores_train.jsonl"}
SCORES |= {"validation_file": "{home}/scores_dev.jsonl"}
NER = {"task": "token-classification", "train_file": "{home}/ner_train.jsonl"}
NER |= {"validation_file": "{home}/ner_dev.jsonl"}
QA = {"task": "question-answering", "train_file": "{home}/squad_train.json"}
QA |= {"validation_file": "{home}/squad_dev.json"}


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def sentences(count, seed):
    """A label that one word decides."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        label = draw.randrange(2)
        words = [*draw.choices(NEUTRAL, k=draw.randrange(2, 7)), draw.choice((BAD, GOOD)[label])]
        draw.shuffle(words)
        rows.append({"sentence1": " ".join(words), "label": label})
    return rows


def documents(count, seed, longest=8):
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        words, tags = [], []
        for _ in range(draw.randrange(3, longest)):
            kind = draw.randrange(4)
            if kind == 0:
                words += [draw.choice(PEOPLE), draw.choice(SURNAMES)]
                tags += ["B-person", "I-person"]
            else:
                words.append(draw.choice(PLACES if kind == 1 else NEUTRAL))
                tags.append("B-place" if kind == 1 else "O")
        rows.append({"tokens": words, "ner_tags": tags})
    return rows


def squad(count, seed, length=10):
    """A question asks for the only name in its context."""
    draw = random.Random(seed)
    paragraphs = []
    for i in range(count):
        words = draw.choices(NEUTRAL, k=length)
        answer = draw.choice(PEOPLE)
        words[draw.randrange(length)] = answer
        context = " ".join(words)
        answers = [{"text": answer, "answer_start": context.index(answer)}]
        paragraphs.append(
            {"context": context, "qas": [{"id": f"q{seed}-{i}", "question": "who story", "answers": answers}]}
        )
    return {"version": "1.1", "data": [{"title": "names", "paragraphs": paragraphs}]}


def write_bad_data(home):
    good, entity = {"sentence1": "film", "label": 1}, {"tokens": ["Ada"], "ner_tags": ["B-person"]}
    write_lines(home / "unknown_label.jsonl", [good, {"sentence1": "city", "label": 7}])
    write_lines(home / "one_label.jsonl", [good, good])
    write_lines(home / "no_label.jsonl", [{"sentence1": "film", "kind": 1}])
    write_lines(home / "empty_label.jsonl", [good, {"sentence1": "film", "label": None}])
    write_lines(home / "nan_label.jsonl", [{"sentence1": "film", "label": float("nan")}])
    write_lines(home / "mixed.jsonl", [good, {"sentence1": "film", "label": "good"}])
    (home / "latin.jsonl").write_bytes('{"sentence1": "café", "label": 1}'.encode("latin-1"))
    (home / "number.json").write_text("5")
    (home / "commas.csv").write_text('sentence1,label\n"a, b",1\nfilm, city,0\n')
    write_lines(home / "ner_empty.jsonl", [{"tokens": [], "ner_tags": []}])
    write_lines(home / "number_text.jsonl", [{"sentence1": 5, "label": 1}])
    write_lines(home / "pairs.jsonl", [good | {"sentence2": "city"}])
    write_lines(home / "word_scores.jsonl", [{"sentence1": "a", "sentence2": "b", "label": "high"}])
    write_lines(home / "same_scores.jsonl", [{"sentence1": "a", "sentence2": "b", "label": 2.5}] * 2)
    write_lines(home / "ner_unknown.jsonl", [entity, {"tokens": ["x"], "ner_tags": ["B-ship"]}])
    write_lines(home / "ner_uneven.jsonl", [{"tokens": ["x", "y"], "ner_tags": ["O"]}])
    write_lines(home / "ner_not_bio.jsonl", [{"tokens": ["x"], "ner_tags": ["NOUN"]}])
    write_lines(home / "ner_ids.jsonl", [{"tokens": ["x"], "ner_tags": [3]}])
    write_lines(home / "ner_outside.jsonl", [{"tokens": ["x"], "ner_tags": ["O"]}])
    write_lines(home / "label_lists.jsonl", [{"sentence1": "film", "label": [0, 1]}])
    flat = {"text": "Ada", "answer_start": 0}
    write_lines(home / "squad_flat.jsonl", [{"id": "q", "question": "who", "context": "Ada", "answers": flat}])
    (home / "empty.jsonl").write_text("")
    (home / "no_rows.csv").write_text("sentence1,label\n")
    (home / "broken.jsonl").write_text('{"sentence1": "film", "label": 1}\n{"sentence1": ')
    (home / "table.xlsx").write_text("")
    content = squad(1, 5)
    context = content["data"][0]["paragraphs"][0]["context"]
    blank, whole = ({"text": text, "answer_start": context.index(text)} for text in (" ", context))
    for name, answer in (("blank", blank), ("long", {**whole, "text": f"{context} {context} {context}"})):
        content = squad(1, 5)
        content["data"][0]["paragraphs"][0]["context"] = f"{context} {context} {context}"
        content["data"][0]["paragraphs"][0]["qas"][0]["answers"] = [answer]
        (home / f"squad_{name}.json").write_text(json.dumps(content))
    content = squad(1, 5)
    content["data"][0]["paragraphs"][0]["qas"][0]["answers"][0]["answer_start"] += 1
    (home / "squad_shifted.json").write_text(json.dumps(content))
    content["data"][0]["paragraphs"][0]["qas"][0]["answers"][0]["text"] = "Zuse"
    (home / "squad_elsewhere.json").write_text(json.dumps(content))
    content["data"][0]["paragraphs"][0]["qas"][0]["answers"] = []
    (home / "squad_unanswered.json").write_text(json.dumps(content))
    del content["data"][0]["paragraphs"][0]["context"]
    (home / "squad_no_context.json").write_text(json.dumps(content))
    (home / "squad_empty.json").write_text(json.dumps({"data": []}))


def arguments(home, folder, **changes):
    options = {"model_name_or_path": home / "electra", "task": "classification", "output_dir": folder}
    options |= {"train_file": home / "train.jsonl", "validation_file": home / "dev.jsonl", "num_train_epochs": 1}
    options |= {"per_device_train_batch_size": 16, "report_to": "none", "use_cpu": True, "disable_tqdm": True}
    options = {name: value for name, value in (options | changes).items() if value is not None}
    return [str(part) for name, value in options.items() for part in (f"--{name}", value)]


def task_of(task_class, home, train, validation, longest=64, **options):
    task_arguments = TaskArguments(train_file=str(train), validation_file=str(validation), **options)
    return task_class(task_arguments, AutoTokenizer.from_pretrained(home / "tokenizer"), longest)


def results_of(folder):
    return json.loads((folder / "results.json").read_text())
