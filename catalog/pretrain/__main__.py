"""`python -m catalog.pretrain --out FOLDER`: make tiny-chat again, from its text to its weights."""

import argparse
from pathlib import Path

import torch

from catalog.pretrain import tokenizer, train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--steps", type=int, default=550, help="batches of 32 × 256 tokens")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    words = tokenizer.train(arguments.seed)
    model = train.train(words, seed=arguments.seed, steps=arguments.steps)
    train.save(model, words, arguments.out)


if __name__ == "__main__":
    main()
