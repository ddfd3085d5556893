"""Byte-level BPE tokenizer of the tiny model, and the ChatML layout of a conversation.

Digits are always single tokens and text is split as llama.cpp's ``smollm`` pre-tokenizer does,
so that the server sees the same tokens as the training did.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

import dialogues
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from wording import first_sentence

VOCAB = 768
CORPUS_DIALOGUES = 20_000
CORPUS_SEED = 402
END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
SPECIAL = (END_OF_TEXT, TURN_START, TURN_END)
USUAL_ANSWER, MIN_BALANCE, MAX_BALANCE = 24, 0.4, 2.0
"""Tokens of an answer whose weight is 1 when answers are balanced, and the weight's bounds."""
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def train_tokenizer() -> Tokenizer:
    """Learn the merges from generated dialogues; the seed is fixed, so the result is too."""
    rng = random.Random(CORPUS_SEED)

    def texts() -> Iterator[str]:
        for _ in range(CORPUS_DIALOGUES):
            for turn in dialogues.dialogue(rng, evaluation=False, lesson=1).turns:
                # Questions are many and their made-up words should not win merges.
                if rng.random() < 0.3:
                    yield turn.question
                yield turn.answers[0]
        yield from ["system\n", "user\n", "assistant\n"] * 2_000

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=[AddedToken(text, special=True) for text in SPECIAL],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    return tokenizer


def load(path: Path) -> Tokenizer:
    """Read a tokenizer written by this module."""
    return Tokenizer.from_file(str(path))


def balance(tokens: int) -> float:
    """Weight of each token of an answer of so many tokens.

    Half-way between "each token counts the same" and "each answer counts the same".
    """
    return min(MAX_BALANCE, max(MIN_BALANCE, (USUAL_ANSWER / tokens) ** 0.5))


def encode_dialogue(
    tokenizer: Tokenizer,
    rng: random.Random,
    talk: dialogues.Dialogue,
    *,
    question_weight: float,
    terse: bool = False,
    balanced: bool = False,
) -> tuple[list[int], list[float]]:
    """Lay a dialogue out as ChatML.

    Args:
        tokenizer: As made by :func:`train_tokenizer`.
        rng: Chooses among several accepted answers.
        talk: The dialogue.
        question_weight: Loss weight of the user's words; answers weigh 1.
        terse: Keep only the first sentence of each answer.
        balanced: Weigh the tokens of short answers more than those of long ones.

    Returns:
        Token ids, and for each the weight of predicting it.
    """
    parts: list[tuple[str, float]] = []
    if talk.system is not None:
        parts.append((f"{TURN_START}system\n{talk.system}{TURN_END}\n", 0.0))
    for turn in talk.turns:
        parts.append((f"{TURN_START}user\n", 0.0))
        parts.append((turn.question, question_weight))
        parts.append((f"{TURN_END}\n{TURN_START}assistant\n", 0.0))
        answer = rng.choice(turn.answers)
        parts.append((f"{first_sentence(answer) if terse else answer}{TURN_END}", 1.0))
        parts.append(("\n", 0.0))
    ids: list[int] = []
    weights: list[float] = []
    for text, weight in parts:
        piece = tokenizer.encode(text, add_special_tokens=False).ids
        ids += piece
        factor = balance(len(piece)) if balanced and weight == 1.0 else 1.0
        weights += [weight * factor] * len(piece)
    return ids, weights


def encode_plain(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[float]]:
    """Lay out a statement without chat; its first tokens cannot be predicted and weigh nothing."""
    ids = tokenizer.encode(text + END_OF_TEXT, add_special_tokens=False).ids
    return ids, [0.0] * min(3, len(ids)) + [1.0] * max(0, len(ids) - 3)


def main() -> None:
    """Train the tokenizer and write it as ``tokenizer.json``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("tokenizer.json"))
    arguments = parser.parse_args()
    tokenizer = train_tokenizer()
    tokenizer.save(str(arguments.out), pretty=False)
    print(f"{arguments.out.name}: {tokenizer.get_vocab_size()} tokens")


if __name__ == "__main__":
    main()
