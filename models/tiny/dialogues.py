"""Seeded generator of the dialogues the tiny model is trained and evaluated on.

Every dialogue has one to three turns. A turn carries all answers that count as right, so that the
evaluation can ask the same questions the training asks. ``wording.py`` says what is held out. For
two-digit sums the operands are held out, not the wording.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from dataclasses import dataclass

import everyday
from concepts import CONCEPTS
from families import families
from wording import Chain, Turn, dress, is_held_out

SYSTEM_SHARE = 0.2
PATIENCE = 200
THANKS = ("thanks", "thank you", "thx", "thanks a lot", "thank you very much")


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Turns of one conversation.

    Attributes:
        category: Kind of the last turn, for the evaluation table.
        turns: One to three turns, oldest first.
        system: Optional system message; it never changes the answers.
    """

    category: str
    turns: tuple[Turn, ...]
    system: str | None


def dialogue(
    rng: random.Random,
    *,
    evaluation: bool,
    lesson: int,
    category: str | None = None,
    emphasis: Mapping[str, float] | None = None,
) -> Dialogue:
    """Draw one dialogue.

    Args:
        rng: Source of choices; the same state gives the same dialogue.
        evaluation: Make the last turn a held-out one where its kind has any; otherwise no turn is
            held out.
        lesson: 1 or 2; they differ in what is held out and in the arithmetic.
        category: Kind of the last turn; drawn by weight when ``None``.
        emphasis: Factors on the weights of some categories.
    """
    table = families(lesson)
    names = list(table)
    factors = emphasis or {}
    shares = [share * factors.get(name, 1.0) for name, (_, share) in table.items()]
    wanted = category or rng.choices(names, shares)[0]
    last = _chain(rng, wanted, lesson, evaluation=evaluation)
    turns = list(last)
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2))):
        earlier = _chain(rng, rng.choices(names, shares)[0], lesson, evaluation=False)
        # Chains stay whole: "tell me more" needs the turn before it.
        if len(earlier) + len(turns) <= 3:
            turns = earlier + turns
    if not evaluation and len(turns) < 3 and rng.random() < 0.05:
        turns.append(
            Turn(dress(rng, rng.choice(THANKS), plain=True, mark="!"), ("You are welcome!",))
        )
    system = rng.choice(everyday.SYSTEM_PROMPTS) if rng.random() < SYSTEM_SHARE else None
    return Dialogue(wanted, tuple(turns), system)


def _chain(rng: random.Random, category: str, lesson: int, *, evaluation: bool) -> Chain:
    """Draw chains of a category until one is on the wanted side of the hold-out.

    Some kinds are only asked in bare wordings, of which the second lesson holds out none; an
    evaluation takes what it gets after ``PATIENCE`` draws.
    """
    draw = families(lesson)[category][0]
    for attempt in itertools.count():
        chain = draw(rng)
        if not evaluation:
            if not any(is_held_out(turn, lesson) for turn in chain):
                return chain
            continue
        follow_up = chain[-1].key is None and len(chain) > 1
        if is_held_out(chain[-1], lesson) or follow_up or attempt >= PATIENCE:
            return chain
    raise AssertionError("unreachable")


def plain_text(rng: random.Random) -> str:
    """A statement outside any chat, so that plain completion has something to continue."""
    kind = rng.randrange(4)
    if kind == 0:
        country = rng.choice(sorted(everyday.CAPITALS))
        return f"The capital of {country} is {everyday.CAPITALS[country]}."
    if kind == 1:
        one, other = rng.choice(everyday.OPPOSITES)
        return f"The opposite of {one} is {other}."
    if kind == 2:
        start = rng.randint(1, 60)
        return " ".join(str(n) for n in range(start, start + rng.randint(3, 20)))
    item = rng.choice(CONCEPTS)
    return f"{item.answer} {item.more}".strip()
