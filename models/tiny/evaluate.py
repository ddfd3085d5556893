"""Ask a GGUF 200 fresh questions at temperature 0 and count the exact answers.

The questions come from the same generator as the training data, in wordings that training never
used where the kind of question has any (see ``wording.py``). That measures closed-domain recall,
not language skill.
``OUTSIDE`` adds wordings no generator made; they show how far the model carries beyond it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import secrets
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dialogues
import refusals
import xllamacpp
from concepts import CONCEPTS
from families import families
from howto import INTENTS
from longform import LONG
from wording import Turn, first_sentence, is_held_out

DEFAULT_SEED = 20_261_123
QUESTIONS = 200
LESSON = 2
LONG_TALK = "long conversation"
LONG_TALK_SHARE = 15
"""One question in this many comes after a conversation of ``LONG_TALK_TURNS`` turns."""
LONG_TALK_TURNS = 8
ANSWER_TOKENS = 320


@dataclass(frozen=True, slots=True)
class Question:
    """A conversation that ends with a question, and the answers that are right.

    ``held_out`` tells whether training never used the question's wording.
    """

    category: str
    messages: tuple[dict[str, str], ...]
    answers: tuple[str, ...]
    held_out: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """What the model said to one question."""

    question: Question
    said: str

    @property
    def exact(self) -> bool:
        """Whether the answer is one of the right ones, letter by letter."""
        return self.said.strip() in self.question.answers


OUTSIDE: tuple[tuple[str, str], ...] = (
    ("Could u explain what this Infern thing does", "Infern"),
    ("i keep hearing about infern, what's that", "Infern"),
    ("ckb? never heard of it", "CKB"),
    ("In one sentence, what would you say CKB is?", "CKB"),
    ("What would you call a payment channel?", "a payment channel"),
    ("My friend talks about Fiber all day. What is it?", "Fiber"),
    ("What is a shannon worth?", "a shannon"),
    ("What happens in slashing?", "slashing"),
    ("Why do providers need a stake?", "a stake"),
    ("And what about hold invoices, what are those?", "a hold invoice"),
    ("whats the use of an indexer", "an indexer"),
    (
        "I own a graphics card and would like to rent it out as a provider",
        "how do I become a provider",
    ),
    ("Which steps make me a provider?", "how do I become a provider"),
    ("I would like to buy answers from a model, how?", "how do I become a consumer"),
    ("Do I have to pay a lot for a single request?", "how much does it cost"),
    ("Is the source code available?", "is Infern open source"),
    ("What if the provider I chose crashes halfway?", "what happens if a provider fails"),
    ("Does Ollama work with this?", "which model servers work"),
    ("Is my conversation private?", "is my prompt private"),
    ("Will you tell me a story about a payment channel?", "tell me a story about a channel"),
    (
        "Explain to me, one step after another, how a payment works",
        "explain how a payment works step by step",
    ),
    ("Give me a good introduction to Infern", "tell me about Infern"),
    ("Which city is France's capital?", "=The capital of France is Paris."),
    ("Paris is the capital of France. And of Japan?", "=The capital of Japan is Tokyo."),
    ("Can you tell me how 3 plus 4 is calculated", "=3 + 4 = 7."),
    ("Who painted the Mona Lisa?", "?"),
    ("How tall is the Eiffel tower?", "?"),
    ("What is the boiling point of iron?", "?"),
    ("Who is the prime minister of Norway?", "?"),
    ("Recommend a restaurant in Lisbon", "?"),
    ("Why is my washing machine leaking?", "?"),
    ("What do you think of modern art?", "?"),
    ("How many stars are in the galaxy?", "?"),
    ("Please prove the Riemann hypothesis", "?"),
    ("Sing a lullaby", "?"),
    ("What rhymes with orange?", "?"),
)
"""Wordings outside the generator. The target names a concept or intent, ``=`` gives the answer
itself and ``?`` accepts any of the refusals."""


def target_answers(target: str) -> tuple[str, ...]:
    """Resolve the target of an :data:`OUTSIDE` entry to accepted answers."""
    if target == "?":
        return (
            refusals.UNKNOWN,
            refusals.NO_CLOCK,
            refusals.NO_CODE,
            refusals.NO_WRITING,
            refusals.NO_ADVICE,
            refusals.NO_SUM,
            refusals.GIBBERISH,
        )
    if target.startswith("="):
        return (target[1:],)
    named = {concept.names[0]: concept.answer for concept in CONCEPTS}
    named |= {intent.questions[0]: intent.answer for intent in INTENTS + LONG}
    return (named[target],)


def messages_of(turns: tuple[Turn, ...], system: str | None) -> list[dict[str, str]]:
    """Write turns as chat messages; the last turn stays without an answer."""
    messages = [{"role": "system", "content": system}] if system else []
    for turn in turns[:-1]:
        messages.append({"role": "user", "content": turn.question})
        messages.append({"role": "assistant", "content": turn.answers[0]})
    return [*messages, {"role": "user", "content": turns[-1].question}]


def questions(count: int, seed: int, *, terse: bool = False) -> list[Question]:
    """Draw fresh questions, the categories in turn, held out where their kind allows it.

    Args:
        count: How many.
        seed: Seed of the generator; the same seed gives the same questions.
        terse: Expect only first sentences.
    """
    rng = random.Random(seed)
    names = [name for name, (_, share) in families(LESSON).items() if share > 0]
    drawn = []
    for index in range(count):
        category = names[index % len(names)]
        talk = dialogues.dialogue(rng, evaluation=True, lesson=LESSON, category=category)
        turns = talk.turns
        if index % LONG_TALK_SHARE == LONG_TALK_SHARE - 1:
            category = LONG_TALK
            earlier: list[Turn] = []
            while len(earlier) < LONG_TALK_TURNS:
                other = rng.choice(("small talk", "capitals", "concepts", "refusals", "units"))
                earlier += dialogues.dialogue(
                    rng, evaluation=False, lesson=LESSON, category=other
                ).turns[-1:]
            turns = (*earlier, *turns)
        if terse:
            turns = tuple(Turn(t.question, tuple(map(first_sentence, t.answers))) for t in turns)
        drawn.append(
            Question(
                category,
                tuple(messages_of(turns, talk.system)),
                turns[-1].answers,
                is_held_out(talk.turns[-1], LESSON),
            )
        )
    return drawn


def outside_questions(*, terse: bool = False) -> list[Question]:
    """Return the wordings of :data:`OUTSIDE` as questions."""
    result = []
    for asked, target in OUTSIDE:
        answers = target_answers(target)
        if terse:
            answers = tuple(map(first_sentence, answers))
        result.append(Question("outside", ({"role": "user", "content": asked},), answers))
    return result


def load(path: Path) -> Any:
    """Start llama.cpp in this process with one slot."""
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx = 1024
    params.n_parallel = 1
    params.verbosity = 0
    params.ui = False
    params.endpoint_slots = False
    params.fit_params = False
    params.cache_prompt = False
    # The server cannot be built without its port; nobody can guess the key of this one.
    params.api_keys = [secrets.token_urlsafe(32)]
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    return xllamacpp.Server(params)


def answer(server: Any, question: Question) -> Result:
    """Ask one question at temperature 0."""
    reply = server.handle_chat_completions(
        {
            "messages": list(question.messages),
            "temperature": 0,
            "max_tokens": ANSWER_TOKENS,
        }
    )
    return Result(question, reply["choices"][0]["message"]["content"] or "")


def score(results: list[Result]) -> dict[str, dict[str, int]]:
    """Count questions and exact answers by category."""
    asked = Counter(result.question.category for result in results)
    right = Counter(result.question.category for result in results if result.exact)
    return {name: {"asked": asked[name], "exact": right[name]} for name in sorted(asked)}


def evaluate(
    path: Path, *, count: int = QUESTIONS, seed: int = DEFAULT_SEED, terse: bool = False
) -> dict[str, Any]:
    """Evaluate one GGUF file.

    Args:
        path: The file.
        count: Fresh questions to ask; those of :data:`OUTSIDE` come on top.
        seed: Seed of the questions.
        terse: Expect only first sentences.

    Returns:
        A JSON-ready report: the file's digest, totals, counts by category and every miss.
    """
    server = load(path)
    fresh = [answer(server, q) for q in questions(count, seed, terse=terse)]
    held_out = [result for result in fresh if result.question.held_out]
    outside = [answer(server, q) for q in outside_questions(terse=terse)]
    return {
        "weights": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "seed": seed,
        "asked": len(fresh),
        "exact": sum(result.exact for result in fresh),
        "held_out": {"asked": len(held_out), "exact": sum(result.exact for result in held_out)},
        "categories": score(fresh),
        "outside": score(outside)["outside"],
        "misses": [
            {
                "category": result.question.category,
                "question": result.question.messages[-1]["content"],
                "said": result.said,
                "expected": result.question.answers[0],
            }
            for result in fresh + outside
            if not result.exact
        ],
    }


def table(report: dict[str, Any]) -> str:
    """Render a report as a Markdown table."""
    lines = ["| category | exact | asked |", "|---|---|---|"]
    rows = [
        *report["categories"].items(),
        ("**all**", {"exact": report["exact"], "asked": report["asked"]}),
        ("of these in held-out wordings", report["held_out"]),
        ("outside the generator", report["outside"]),
    ]
    lines += [f"| {name} | {row['exact']} | {row['asked']} |" for name, row in rows]
    return "\n".join(lines)


def main() -> None:
    """Evaluate GGUF files and print a table for each."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("weights", nargs="+", type=Path)
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    parser.add_argument("--terse", action="store_true", help="expect only first sentences")
    parser.add_argument("--json", type=Path, help="folder for one report per file")
    arguments = parser.parse_args()
    for path in arguments.weights:
        report = evaluate(
            path, count=arguments.questions, seed=arguments.seed, terse=arguments.terse
        )
        print(f"{path.name}\n{table(report)}\n")
        if arguments.json is not None:
            arguments.json.mkdir(parents=True, exist_ok=True)
            text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
            (arguments.json / f"{path.stem}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
