"""From raw text to training rows: `text` reads, `train_tokenizer` and `create_features` are commands."""
