"""Load a pretraining checkpoint with the Auto classes, and use both of its networks.

python examples/use_checkpoint.py my_model
"""

import argparse
from pathlib import Path

import torch
from transformers import AutoModel, AutoModelForPreTraining, AutoTokenizer, pipeline

SENTENCE = "The Congress of the United States shall pass this law."
REPLACED = SENTENCE.replace("law", "the")


def use_checkpoint(checkpoint: str) -> None:
    # The folder holds the modelling code, so this also works on a machine without the package.
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=True)
    encoder = AutoModel.from_pretrained(checkpoint, trust_remote_code=True)
    if Path(checkpoint, "generator").is_dir():  # a pair of stock encoders, whose heads only the package knows
        from span_electra import SpanEncoderForPreTraining

        discriminator = SpanEncoderForPreTraining.from_pretrained(checkpoint)
        generator = f"{checkpoint}/generator"
    else:
        discriminator = AutoModelForPreTraining.from_pretrained(checkpoint, trust_remote_code=True)
        generator = checkpoint
    fill_mask = pipeline("fill-mask", model=generator, tokenizer=tokenizer, trust_remote_code=True)

    masked = SENTENCE.replace("States", tokenizer.mask_token)
    print(f"generator:      {masked}")
    for guess in fill_mask(masked, top_k=3):
        print(f"                {guess['token_str'].strip():<14} {guess['score']:.3f}")

    inputs = tokenizer(REPLACED, return_tensors="pt")
    with torch.no_grad():
        scores = discriminator.eval()(**inputs).logits[0].sigmoid().tolist()
        hidden = encoder.eval()(**inputs).last_hidden_state
    tokens = [tokenizer.decode([token]).strip() for token in inputs["input_ids"][0]]
    print(f"discriminator:  {REPLACED}   (the last word was `law`); each token's probability of being replaced:")
    print("               ", "  ".join(f"{token} {score:.2f}" for token, score in zip(tokens, scores, strict=True)))
    print(
        f"{type(encoder).__name__} loaded with AutoModel: hidden states {tuple(hidden.shape)} for {len(tokens)} tokens"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="folder or Hub name")
    use_checkpoint(parser.parse_args().checkpoint)
