"""How often what fails: one set of chances per run, drawn from the seed.

Each kind of trouble is off in about half of the runs, so that each also meets a world in which
little else is wrong. A chance is per request, call or piece, as its name says.
"""

import random
from dataclasses import dataclass, fields, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """Chances from 0 to 1, and latencies. The default is fair weather.

    Args:
        http_lost: A request never reaches the seller.
        http_torn: A request breaks off in the middle of its body.
        http_twice: A request reaches the seller twice.
        http_cut: An answer breaks off, before its headers or at any byte.
        http_slow: A reader takes its time for each piece.
        rpc_lost: A call never reaches the Fiber node, and the caller waits in vain.
        rpc_unheard: The node does what it is told and its answer is lost.
        rpc_slow: An answer takes seconds.
        event_lost: A node's event is not heard.
        ledger_away: The ledger refuses a command.
        ledger_slow: The ledger takes seconds for a command.
        journal_away: The journal cannot be written.
        model_bad: The model server does something else than answer well.
        node_trouble: Per ten seconds: a node restarts, a link drops or delays, TLCs get stuck.
        crash: Per ten seconds and program: it is killed.
        give_up: A user loses patience in the middle.
        absence: A user is away until what was paid is honoured no more.
        new_terms: A seller that starts again has other prices and a new key for tokens.
        latency_us: Scale of all latencies.
        shuffles: Tasks that could run at once run in a seeded order.
    """

    http_lost: float = 0.0
    http_torn: float = 0.0
    http_twice: float = 0.0
    http_cut: float = 0.0
    http_slow: float = 0.0
    rpc_lost: float = 0.0
    rpc_unheard: float = 0.0
    rpc_slow: float = 0.0
    event_lost: float = 0.0
    ledger_away: float = 0.0
    ledger_slow: float = 0.0
    journal_away: float = 0.0
    model_bad: float = 0.0
    node_trouble: float = 0.0
    crash: float = 0.0
    give_up: float = 0.0
    absence: float = 0.0
    new_terms: float = 0.0
    latency_us: int = 1_000
    shuffles: bool = False


FAIR = Weather()
_MOST = Weather(
    http_lost=0.15,
    http_torn=0.1,
    http_twice=0.2,
    http_cut=0.25,
    http_slow=0.3,
    rpc_lost=0.1,
    rpc_unheard=0.2,
    rpc_slow=0.1,
    event_lost=0.8,
    ledger_away=0.15,
    ledger_slow=0.15,
    journal_away=0.04,
    model_bad=0.8,
    node_trouble=0.6,
    crash=0.8,
    give_up=0.3,
    absence=0.1,
    new_terms=0.8,
)


def draw(dice: random.Random) -> Weather:
    """The weather of a seed."""
    chances = {
        field.name: getattr(_MOST, field.name) * dice.random()
        for field in fields(Weather)
        if isinstance(field.default, float) and dice.random() < 0.5
    }
    latency_us = dice.choice((200, 2_000, 20_000, 150_000))
    return replace(FAIR, **chances, latency_us=latency_us, shuffles=dice.random() < 0.5)


def calmed(weather: Weather) -> Weather:
    """The same world when the trouble is over: latencies stay, faults end."""
    return replace(FAIR, latency_us=weather.latency_us, shuffles=weather.shuffles)
