"""How people word a question: prefixes, punctuation, case, typing mistakes and nonsense.

One wording in eight is *held out*: training never sees it, and evaluation prefers such wordings.
The first lesson holds out bare wordings too; that kept short everyday phrases from being learnt
at all, so the second lesson trains every bare wording and holds out only decorated ones.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from refusals import SYLLABLES

HELD_OUT_ONE_IN = 8
TYPO_SHARE = 0.12


@dataclass(frozen=True, slots=True)
class Turn:
    """One question with the answers that are right.

    Attributes:
        question: What the user says.
        answers: Accepted answers; training draws one of them.
        key: What decides whether the turn is held out; ``None`` when it always may be trained.
        bare: A listed wording without decoration, which the second lesson always trains.
    """

    question: str
    answers: tuple[str, ...]
    key: str | None = None
    bare: bool = False


Chain = list[Turn]
"""Turns that belong together, oldest first."""

PREFIXES = (
    "",
    "",
    "",
    "",
    "",
    "",
    "please ",
    "hi, ",
    "hello, ",
    "hey, ",
    "ok, ",
    "so, ",
    "well, ",
    "can you tell me ",
    "could you tell me ",
    "I want to know ",
    "quick question: ",
    "tell me, ",
    "please tell me ",
    "and ",
    "now ",
    "I have a question: ",
    "do you know ",
    "one more: ",
    "I wonder ",
    "good morning, ",
    "sorry, ",
    "thanks, and ",
    "let me ask: ",
    "help me: ",
)
SUFFIXES = (
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    " please",
    " thanks",
    ", please",
    " exactly",
    " then",
    " here",
    " for me",
    " in short",
)


def normalised(text: str) -> str:
    """Return ``text`` in lower case with everything but letters, digits and spaces removed."""
    return " ".join(re.sub(r"[^\w\s]", " ", text.lower()).split())


def first_sentence(answer: str) -> str:
    """Cut an answer after its first sentence, for a model that is visibly terser."""
    return re.split(r"(?<=[A-Za-z][.!?])\s", answer, maxsplit=1)[0]


def is_held_out(turn: Turn, lesson: int) -> bool:
    """Tell whether a turn is reserved for evaluation."""
    if turn.key is None or (turn.bare and lesson > 1):
        return False
    return zlib.crc32(turn.key.encode()) % HELD_OUT_ONE_IN == 0


def misspell(rng: random.Random, text: str) -> str:
    """Make one typing mistake in a word of four letters or more."""
    places = [m.start() for m in re.finditer(r"(?<=[A-Za-z])[a-z](?=[a-z]{2})", text)]
    if not places:
        return text
    at = rng.choice(places)
    kind = rng.randrange(4)
    if kind == 0:
        return text[:at] + text[at + 1 :]
    if kind == 1:
        return text[:at] + text[at] + text[at:]
    if kind == 2:
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    return text[:at] + rng.choice("abcdefghijklmnopqrstuvwxyz") + text[at + 1 :]


def dress(rng: random.Random, core: str, *, plain: bool = False, mark: str = "?") -> str:
    """Turn the core of a question into something a person might type.

    Args:
        rng: Source of choices.
        core: Question in lower case, without final punctuation.
        plain: Leave out polite prefixes, suffixes and typos, as fits small talk and copying.
        mark: Usual final punctuation.
    """
    text = core
    if not plain and rng.random() < 0.5:
        text = rng.choice(PREFIXES) + text + rng.choice(SUFFIXES)
        if rng.random() < TYPO_SHARE:
            text = misspell(rng, text)
    text += rng.choice((mark, mark, mark, "", "", ".", mark * 2 if rng.random() < 0.2 else mark))
    style = rng.random()
    if style < 0.6:
        return text[:1].upper() + text[1:]
    if style < 0.64:
        return text.upper()
    return text.lower() if style > 0.85 else text


def ask(
    rng: random.Random,
    cores: Sequence[str],
    answers: tuple[str, ...],
    *,
    plain: bool = False,
    mark: str = "?",
    varied: bool = False,
) -> Turn:
    """Choose a wording of a question.

    Args:
        rng: Source of choices.
        cores: Wordings; the first one without decoration is never held out.
        answers: Accepted answers.
        plain: As for :func:`dress`.
        mark: As for :func:`dress`.
        varied: The cores hold a number of many, so that even a bare wording may be held out.
    """
    core = cores[0] if rng.random() < 0.15 else rng.choice(cores)
    question = dress(rng, core, plain=plain, mark=mark)
    key = normalised(question)
    bare = not varied and key in {normalised(other) for other in cores}
    return Turn(question, answers, None if key == normalised(cores[0]) else key, bare)


def made_up_word(rng: random.Random) -> str:
    """A word that means nothing, to teach that unknown words exist."""
    return "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(2, 4)))


def gibberish(rng: random.Random) -> str:
    """Keys hit at random, single letters and lone punctuation."""
    kind = rng.randrange(3)
    if kind == 0:
        return rng.choice(("?", "!", "...", ".", "??", ":)", "-", "#", "@@", "%", "/"))
    letters = "asdfghjkl" if kind == 1 else "qwertzuiopyxcvbnm"
    groups = (
        "".join(rng.choice(letters) for _ in range(rng.randint(2, 8)))
        for _ in range(rng.randint(1, 3))
    )
    return " ".join(groups)
