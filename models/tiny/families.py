"""Generators of the kinds of questions the tiny model is taught, one function for each.

Each function draws a chain: turns that belong together, such as a question and "tell me more".
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import everyday
import refusals
from concepts import CONCEPTS
from howto import INTENTS, Intent
from longform import LONG
from smalltalk import SMALL_TALK
from sums import arithmetic, small_sums
from wording import Chain, Turn, ask, dress, gibberish, made_up_word, normalised

CONCEPT_QUESTIONS = (
    "what is {}",
    "what's {}",
    "what does {} mean",
    "explain {}",
    "tell me about {}",
    "define {}",
    "can you explain {}",
    "what do you know about {}",
    "describe {}",
    "what is meant by {}",
    "I do not understand {}",
    "give me a definition of {}",
    "what exactly is {}",
    "{}",
    "please explain {} to me",
    "what is {} about",
    "tell me what {} is",
    "so what is {}",
    "explain to me what {} is",
    "what are {}",
    "do you know what {} is",
    "whats {}",
    "about {}",
    "have you heard of {}",
    "what is {} in simple words",
    "explain {} simply",
    "{} meaning",
)
MORE_QUESTIONS = (
    "tell me more",
    "more",
    "go on",
    "can you say more",
    "explain more",
    "and",
    "more details",
    "tell me more about it",
    "please continue",
    "continue",
    "what else",
    "say more",
    "I want to know more",
    "more please",
    "keep going",
)


def concept(rng: random.Random) -> Chain:
    """A term, sometimes followed by "tell me more"."""
    item = rng.choice(CONCEPTS[:8]) if rng.random() < 0.25 else rng.choice(CONCEPTS)
    name = item.names[0] if rng.random() < 0.4 else rng.choice(item.names)
    cores = [question.format(name) for question in CONCEPT_QUESTIONS]
    chain = [ask(rng, cores, (item.answer,))]
    if item.more and rng.random() < 0.35:
        chain.append(Turn(dress(rng, rng.choice(MORE_QUESTIONS), plain=True), (item.more,)))
    return chain


def from_intents(rng: random.Random, intents: Sequence[Intent]) -> Chain:
    """A question from a table of intents."""
    intent = rng.choice(intents)
    return [ask(rng, intent.questions, (intent.answer,))]


def small_talk(rng: random.Random) -> Chain:
    """Greetings and questions about the model itself."""
    questions, answers = rng.choice(SMALL_TALK)
    mark = rng.choice(("?", "!", "", "."))
    return [ask(rng, questions, answers, plain=rng.random() < 0.8, mark=mark)]


def capital(rng: random.Random) -> Chain:
    """Capitals, sometimes with "and Germany?" after it, sometimes of no real country."""

    def answer(country: str) -> tuple[str, ...]:
        return (f"The capital of {country} is {everyday.CAPITALS[country]}.",)

    first, second = rng.sample(sorted(everyday.CAPITALS), 2)
    if rng.random() < 0.1:
        first = made_up_word(rng).capitalize()
        reply: tuple[str, ...] = ("Sorry, I do not know that capital.",)
    else:
        reply = answer(first)
    cores = [
        q.format(first)
        for q in (
            "what is the capital of {}",
            "what's the capital of {}",
            "capital of {}",
            "{} capital",
            "which city is the capital of {}",
            "name the capital of {}",
            "the capital of {}",
            "tell me the capital of {}",
            "do you know the capital of {}",
            "what is {}'s capital",
        )
    ]
    chain = [ask(rng, cores, reply, plain=rng.random() < 0.5)]
    if rng.random() < 0.2:
        follow = rng.choice(("and {}", "and of {}", "what about {}", "how about {}", "and for {}"))
        chain.append(Turn(dress(rng, follow.format(second), plain=True), answer(second)))
    return chain


def opposite(rng: random.Random) -> Chain:
    """Opposites, asked from either side."""
    one, other = rng.choice(everyday.OPPOSITES)
    if rng.random() < 0.5:
        one, other = other, one
    cores = [
        q.format(one)
        for q in (
            "what is the opposite of {}",
            "opposite of {}",
            "the opposite of {}",
            "what's the opposite of {}",
            "tell me the opposite of {}",
            "give me the opposite of {}",
            "which word is the opposite of {}",
            "what is the contrary of {}",
        )
    ]
    return [ask(rng, cores, (f"The opposite of {one} is {other}.",), plain=rng.random() < 0.6)]


def spelling(rng: random.Random) -> Chain:
    """A word letter by letter, or its number of letters."""
    word = rng.choice(everyday.SPELLING)
    cores = [
        q.format(word)
        for q in (
            "how do you spell {}",
            "spell {}",
            "spell the word {}",
            "how is {} spelled",
            "please spell {}",
            "can you spell {}",
            "how do I write {}",
            "spelling of {}",
        )
    ]
    return [ask(rng, cores, ("-".join(word),), plain=True)]


def fact(rng: random.Random) -> Chain:
    """Small facts of everyday life."""
    questions, answer = rng.choice(everyday.FACTS)
    return [ask(rng, questions, (answer,), plain=rng.random() < 0.3)]


def abroad(rng: random.Random) -> Chain:
    """Hello and thank you in other languages."""
    language = rng.choice(sorted(everyday.GREETINGS_ABROAD))
    index = rng.randrange(2)
    english, foreign = ("hello", "thank you")[index], everyday.GREETINGS_ABROAD[language][index]
    cores = [
        q.format(english, language)
        for q in (
            "how do you say {} in {}",
            "say {} in {}",
            "what is {} in {}",
            "{} in {}",
            "how do I say {} in {}",
        )
    ]
    return [ask(rng, cores, (f"In {language} you say {foreign}.",), plain=True)]


def calendar(rng: random.Random) -> Chain:
    """Days and months before and after another, and the length of months."""
    names = everyday.WEEKDAYS if rng.random() < 0.5 else everyday.MONTHS
    index = rng.randrange(len(names))
    if names is everyday.MONTHS and rng.random() < 0.3:
        name, days = names[index], everyday.MONTH_DAYS[index]
        cores = [
            f"how many days does {name} have",
            f"how many days are in {name}",
            f"how long is {name}",
        ]
        return [ask(rng, cores, (f"{name} has {days} days.",))]
    unit = "day" if names is everyday.WEEKDAYS else "month"
    if rng.random() < 0.6:
        answer, cores = (
            names[(index + 1) % len(names)],
            [
                "what comes after {0}",
                "which {1} comes after {0}",
                "what {1} is after {0}",
                "the {1} after {0}",
                "what is the next {1} after {0}",
                "what follows {0}",
            ],
        )
    else:
        answer, cores = (
            names[index - 1],
            [
                "what comes before {0}",
                "which {1} comes before {0}",
                "what {1} is before {0}",
                "the {1} before {0}",
                "what is the {1} before {0}",
            ],
        )
    return [ask(rng, [core.format(names[index], unit) for core in cores], (f"{answer}.",))]


def counting(rng: random.Random) -> Chain:
    """Counting up and down, and letters that follow each other."""
    kind = rng.random()
    if kind < 0.2:
        index = rng.randrange(25)
        letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
        cores = ["which letter comes after {}", "what letter is after {}", "the letter after {}"]
        cores = [core.format(letters[index]) for core in cores]
        return [ask(rng, cores, (f"{letters[index + 1]}.",), plain=True)]
    first, last = 1, rng.choice((5, 10, 10, 20, 30, 50, 50, 100, rng.randint(3, 60)))
    if kind > 0.85:
        first, last = rng.randint(5, 20), 1
        cores = [
            f"count down from {first}",
            f"count backwards from {first}",
            f"count down from {first} to 1",
        ]
        numbers: Sequence[int] = range(first, 0, -1)
    else:
        if kind > 0.6:
            first = rng.randint(2, 60)
            last = first + rng.randint(2, 30)
        cores = [
            f"count from {first} to {last}",
            f"please count from {first} to {last}",
            f"count {first} to {last}",
            f"can you count from {first} to {last}",
            f"list the numbers from {first} to {last}",
        ]
        if first == 1:
            cores += [f"count to {last}", f"count up to {last}"]
        numbers = range(first, last + 1)
    counted = (" ".join(map(str, numbers)),)
    usual = (first, last) in {(1, end) for end in (5, 10, 20, 30, 50, 100)}
    return [ask(rng, cores, counted, plain=True, mark="", varied=not usual)]


def units(rng: random.Random) -> Chain:
    """Unit conversions that need only copying, zeros or a small table."""
    kind = rng.randrange(5)
    if kind == 0:
        amount = rng.randint(1, 99)
        source, target = "CKB", "shannon"
        shown, result = str(amount), f"{amount * 100_000_000:,}"
    elif kind == 1:
        shown, result = rng.choice(
            (
                ("0.1", "10,000,000"),
                ("0.5", "50,000,000"),
                ("0.01", "1,000,000"),
                ("0.001", "100,000"),
                ("0.2", "20,000,000"),
                ("0.25", "25,000,000"),
            )
        )
        source, target = "CKB", "shannon"
    elif kind == 2:
        amount = rng.randint(1, 60)
        source, target, factor = rng.choice(
            (
                ("km", "m", 1000),
                ("kg", "g", 1000),
                ("m", "cm", 100),
                ("GB", "MB", 1000),
                ("seconds", "milliseconds", 1000),
            )
        )
        shown, result = str(amount), str(amount * factor)
    else:
        amount = rng.randint(1, 10)
        source, target, factor = rng.choice(
            (
                ("weeks", "days", 7),
                ("years", "months", 12),
                ("hours", "minutes", 60),
                ("epochs", "hours", 4),
                ("days", "hours", 24),
            )
        )
        shown, result = str(amount), str(amount * factor)
    named = source[:-1] if shown == "1" and source.endswith("s") else source
    verb = "is" if shown == "1" or not source.endswith("s") else "are"
    cores = [
        q.format(shown, named, target, verb)
        for q in (
            "how many {2} {3} {0} {1}",
            "what is {0} {1} in {2}",
            "convert {0} {1} to {2}",
            "{0} {1} in {2}",
            "how many {2} are in {0} {1}",
            "{0} {1} to {2}",
        )
    ]
    converted = (f"{shown} {named} {verb} {result} {target}.",)
    return [ask(rng, cores, converted, plain=True, varied=True)]


def parity(rng: random.Random) -> Chain:
    """Whether a number is even."""
    number = rng.randint(0, 999)
    word = "even" if number % 2 == 0 else "odd"
    cores = [f"is {number} even or odd", f"is {number} odd or even", f"{number} even or odd"]
    return [ask(rng, cores, (f"{number} is {word}.",), plain=True, varied=True)]


def memory(rng: random.Random) -> Chain:
    """A name that is given and, mostly, asked for afterwards."""
    name = rng.choice(everyday.NAMES)
    opening = rng.choice(
        ("my name is {}", "I am {}", "I'm {}", "call me {}", "hi, I am {}", "hello, my name is {}")
    )
    given = dress(rng, opening.format(name), plain=True, mark=".")
    if name not in given:
        given = f"My name is {name}."
    chain = [Turn(given, (f"Nice to meet you, {name}!",))]
    if rng.random() < 0.7:
        asked = rng.choice(
            (
                "what is my name",
                "who am I",
                "do you know my name",
                "what's my name",
                "do you remember my name",
            )
        )
        chain.append(Turn(dress(rng, asked, plain=True), (f"Your name is {name}.",)))
    return chain


def repeat(rng: random.Random) -> Chain:
    """Say some words back, which teaches the model to copy."""
    words = [
        rng.choice((rng.choice(everyday.SPELLING), made_up_word(rng), str(rng.randint(0, 99))))
        for _ in range(rng.randint(1, 4))
    ]
    said = " ".join(words)
    lead = rng.choice(("say", "repeat", "repeat after me:", "please say", "say:", "write"))
    question = f"{lead} {said}"
    return [Turn(question[:1].upper() + question[1:], (said,), normalised(question))]


def refusal(rng: random.Random) -> Chain:
    """Questions outside the model's small world, with the polite refusal that fits."""

    def topic() -> str:
        if rng.random() < 0.25:
            word = made_up_word(rng)
            return rng.choice((word, word.capitalize(), f"the {word}"))
        return rng.choice(refusals.TOPICS)

    kind = rng.random()
    if kind < 0.10:
        return [Turn(gibberish(rng), (refusals.GIBBERISH,))]
    if kind < 0.15:
        a, b, sign = rng.randint(1, 9999), rng.randint(101, 9999), rng.choice("+-*x/")
        if sign in "*x" and rng.random() < 0.5:
            a, b = rng.randint(11, 99), rng.randint(11, 99)
        core = rng.choice(("what is {}", "{}", "calculate {}")).format(f"{a} {sign} {b}")
        return [ask(rng, [core], (refusals.NO_SUM,), plain=True)]
    table, answer, _ = next(row for row in REFUSAL_TABLE if kind < row[2])
    core = rng.choice(table)
    if table is refusals.CODE_QUESTIONS:
        core = core.replace("{}", rng.choice(refusals.CODE_TASKS))
    filled = core.format(topic(), topic()) if "{}" in core else core
    question = dress(rng, filled, plain=rng.random() < 0.4)
    key = normalised(question)
    return [Turn(question, (answer,), key, core == filled and key == normalised(filled))]


REFUSAL_TABLE: tuple[tuple[tuple[str, ...], str, float], ...] = (
    (refusals.CLOCK_QUESTIONS, refusals.NO_CLOCK, 0.25),
    (refusals.CODE_QUESTIONS, refusals.NO_CODE, 0.33),
    (refusals.WRITING_QUESTIONS, refusals.NO_WRITING, 0.42),
    (refusals.ADVICE_QUESTIONS, refusals.NO_ADVICE, 0.49),
    (refusals.FOREIGN, refusals.NO_LANGUAGE, 0.56),
    (refusals.TOPIC_QUESTIONS, refusals.UNKNOWN, 1.01),
)
"""Questions, answer and the upper end of their share of all refusals."""


FAMILIES: dict[str, tuple[Callable[[random.Random], Chain], float]] = {
    "concepts": (concept, 20.0),
    "how-to": (lambda rng: from_intents(rng, INTENTS), 15.0),
    "long answers": (lambda rng: from_intents(rng, LONG), 8.0),
    "small talk": (small_talk, 11.0),
    "capitals": (capital, 7.0),
    "opposites": (opposite, 3.5),
    "spelling": (spelling, 3.0),
    "facts": (fact, 4.0),
    "languages": (abroad, 1.0),
    "calendar": (calendar, 3.0),
    "counting": (counting, 3.5),
    "units": (units, 5.0),
    "arithmetic": (arithmetic, 12.0),
    "parity": (parity, 1.0),
    "memory": (memory, 2.0),
    "repeat": (repeat, 2.0),
    "refusals": (refusal, 18.0),
}
"""Generator and relative weight of every category in the first lesson."""

SECOND_LESSON = FAMILIES | {"arithmetic": (small_sums, 12.0), "repeat": (repeat, 0.0)}
"""The same without what the first lesson showed to be beyond the model.

Trying to copy words and to sum is still worth its time in the first lesson: it teaches the model
to read numbers out of a question.
"""


def families(lesson: int) -> dict[str, tuple[Callable[[random.Random], Chain], float]]:
    """Return the categories of a lesson, counted from 1."""
    return FAMILIES if lesson == 1 else SECOND_LESSON
