"""Sums the tiny model is asked, with the answers and steps it learns."""

from __future__ import annotations

import random

import refusals
from wording import Chain, Turn, ask

SUM_QUESTIONS = (
    "what is {}",
    "{}",
    "how much is {}",
    "calculate {}",
    "compute {}",
    "what's {}",
    "{} =",
    "solve {}",
    "can you compute {}",
    "tell me {}",
)


def worked_sum(a: int, b: int, sign: str) -> str:
    """Write a sum of two-digit numbers digit by digit, least significant first."""
    if sign == "+":
        ones = a % 10 + b % 10
        carry = " + 1" if ones > 9 else ""
        tens = a // 10 + b // 10 + ones // 10
        steps = f"ones {a % 10} + {b % 10} = {ones}, tens {a // 10} + {b // 10}{carry} = {tens}"
        return f"{steps}. The answer is {a + b}."
    borrow = 1 if a % 10 < b % 10 else 0
    top = a % 10 + 10 * borrow
    taken = " - 1" if borrow else ""
    tens = a // 10 - b // 10 - borrow
    steps = f"ones {top} - {b % 10} = {top - b % 10}, tens {a // 10} - {b // 10}{taken} = {tens}"
    return f"{steps}. The answer is {a - b}."


def table_sum(rng: random.Random) -> tuple[int, str, int, str]:
    """Draw a sum of the tables up to ten: first number, sign, second number and the answer."""
    a, b, sign = rng.randint(0, 10), rng.randint(0, 10), rng.choice("++-xx/")
    if sign == "/":
        b = max(b, 1)
        return a * b, sign, b, f"{a * b} / {b} = {a}."
    result = {"+": a + b, "-": a - b, "x": a * b}[sign]
    return a, sign, b, f"{a} {sign} {b} = {result}."


def ask_sum(rng: random.Random, a: int, sign: str, b: int, answer: str) -> Turn:
    """Choose a wording of a sum."""
    words = {
        "+": ("+", "+", "plus"),
        "-": ("-", "-", "minus"),
        "x": ("x", "*", "times"),
        "/": ("/", "divided by", ":"),
    }[sign]
    word = rng.choice(words)
    gap = "" if len(word) == 1 and rng.random() < 0.3 else " "
    expression = f"{a}{gap}{word}{gap}{b}"
    cores = [question.format(expression) for question in SUM_QUESTIONS]
    return ask(rng, cores, (answer,), plain=rng.random() < 0.7)


def arithmetic(rng: random.Random) -> Chain:
    """Sums of one and two digits; two-digit operands are held out as pairs."""
    kind = rng.random()
    if kind < 0.35:
        a, sign, b, answer = table_sum(rng)
        return [ask_sum(rng, a, sign, b, answer)]
    sign = "+" if kind < 0.7 else "-"
    a, b = rng.randint(1, 99), rng.randint(1, 99)
    if sign == "-" and a < b:
        a, b = b, a
    if a < 10 and b < 10:
        a += 10
    turn = ask_sum(rng, a, sign, b, worked_sum(a, b, sign))
    return [Turn(turn.question, turn.answers, f"{a}{sign}{b}")]


def small_sums(rng: random.Random) -> Chain:
    """Sums of the tables up to ten, and a refusal of larger ones.

    The second lesson uses this instead of :func:`arithmetic`: a model of this size and training
    time gets the steps of two-digit sums right but not every digit.
    """
    if rng.random() < 0.75:
        a, sign, b, answer = table_sum(rng)
        return [ask_sum(rng, a, sign, b, answer)]
    a, b, sign = rng.randint(11, 99), rng.randint(1, 99), rng.choice("+-")
    turn = ask_sum(rng, a, sign, b, refusals.NO_SUM)
    return [Turn(turn.question, turn.answers, f"{a}{sign}{b}")]
