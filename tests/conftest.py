"""No test needs a network. The libraries read these settings when they are imported."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest


@pytest.fixture(scope="session")
def tokenizer():
    from trainer_examples import word_tokenizer

    return word_tokenizer()
