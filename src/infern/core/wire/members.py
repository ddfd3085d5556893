"""Which members of a request are served, dropped or refused, and why. Written once, as a table.

A member nobody here has thought about is refused: it may make the model server work longer,
answer more or answer something else than was priced. Null, and a refused member's harmless value
(`echo: false`), are the same as leaving the member out.

Three verdicts. *allow*: checked, priced where it costs, and sent on. *drop*: read past and never
sent on; only for members that change neither the answer nor the price. *refuse*: the request is
answered 400 `unpriceable_request` and nothing is charged.

Source: the OpenAI API reference for chat completions, completions and embeddings; the extra
request members of vLLM, llama.cpp server and OpenRouter.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from infern.core.errors import RemoteProtocolError
from infern.core.wire.strict_json import Json, JsonObject

MAX_STOP_SEQUENCES: Final = 16
MAX_STOP_BYTES: Final = 1024
MAX_LOGIT_BIAS: Final = 1024
MAX_TOP_LOGPROBS: Final = 20
MAX_WORD_CHARS: Final = 32

Check = Callable[[Json], bool]


class Verdict(Enum):
    """What happens to a member."""

    ALLOW = "allow"
    DROP = "drop"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRule:
    """What happens to one member and why.

    Args:
        why: One clause for people; part of the message when the member is refused.
        shape: For allow: what the value must be, for the message when it is not.
        check: For allow: true when the value has that shape.
        same_as_absent: For refuse: values that ask for nothing.
    """

    verdict: Verdict
    why: str
    shape: str = ""
    check: Check | None = None
    same_as_absent: tuple[Json, ...] = ()


def keep_members(
    body: JsonObject, rules: Mapping[str, MemberRule], *, path: str = ""
) -> JsonObject:
    """Return the members that are served, in the order they came.

    Args:
        body: A parsed object of the request.
        rules: The table for that object.
        path: Where the object stands, ending in a dot, for error messages; empty at the top.

    Raises:
        RemoteProtocolError: `unpriceable_request` for a refused or unknown member,
            `invalid_request` for a served member of the wrong shape; `param` names it. Unmoved.
    """
    kept: JsonObject = {}
    for name, value in body.items():
        if value is None:
            continue
        rule = rules.get(name, _UNKNOWN)
        if rule.verdict is Verdict.ALLOW:
            if rule.check is not None and not rule.check(value):
                raise wrong_shape(path + name, rule.shape)
            kept[name] = value
        elif rule.verdict is Verdict.REFUSE and not _asks_nothing(value, rule):
            raise unpriceable(path + name, rule.why)
    return kept


def unpriceable(param: str, why: str) -> RemoteProtocolError:
    """The refusal of something that cannot be priced; `param` is made fit for a message."""
    shown = ascii(param[:80])[1:-1]
    return RemoteProtocolError(
        f"{shown} is not served: {why}. Remove it and send the request again.",
        code="unpriceable_request",
        param=shown,
    )


def wrong_shape(param: str, shape: str) -> RemoteProtocolError:
    """The refusal of a member whose value cannot be used."""
    shown = ascii(param[:80])[1:-1]
    return RemoteProtocolError(f"{shown} must be {shape}.", param=shown)


def is_int(value: Json) -> bool:
    """True for an integer that is not a bool: `true` is no number of tokens."""
    return isinstance(value, int) and not isinstance(value, bool)


def _asks_nothing(value: Json, rule: MemberRule) -> bool:
    # 0 == False in Python, so types are compared too.
    return any(type(value) is type(off) and value == off for off in rule.same_as_absent)


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_bool(value: Json) -> bool:
    return isinstance(value, bool)


def _is_word(value: Json) -> bool:
    return isinstance(value, str) and _WORD.fullmatch(value) is not None


def _is_logprob_count(value: Json) -> bool:
    return isinstance(value, int) and is_int(value) and 0 <= value <= MAX_TOP_LOGPROBS


def _is_token_count(value: Json) -> bool:
    return isinstance(value, int) and is_int(value) and value >= 0


def _is_bias(value: Json) -> bool:
    if not isinstance(value, dict) or len(value) > MAX_LOGIT_BIAS:
        return False
    return all(
        token.isascii()
        and token.isdigit()
        and len(token) <= 10
        and isinstance(bias, int | float)
        and _is_number(bias)
        and -100 <= bias <= 100
        for token, bias in value.items()
    )


def _is_stop(value: Json) -> bool:
    stops: list[Json] = value if isinstance(value, list) else [value]
    return len(stops) <= MAX_STOP_SEQUENCES and all(
        isinstance(s, str) and 0 < len(s.encode("utf-8")) <= MAX_STOP_BYTES for s in stops
    )


def _is_template_switches(value: Json) -> bool:
    if not isinstance(value, dict):
        return False
    return all(k in _TEMPLATE_SWITCHES and isinstance(v, bool) for k, v in value.items())


def _allow(why: str, shape: str = "", check: Check | None = None) -> MemberRule:
    return MemberRule(verdict=Verdict.ALLOW, why=why, shape=shape, check=check)


def _drop(why: str) -> MemberRule:
    return MemberRule(verdict=Verdict.DROP, why=why)


def _refuse(why: str, *, off: tuple[Json, ...] = ()) -> MemberRule:
    return MemberRule(verdict=Verdict.REFUSE, why=why, same_as_absent=off)


_WORD: Final = re.compile(rf"[a-z0-9_-]{{1,{MAX_WORD_CHARS}}}")
_TEMPLATE_SWITCHES: Final = frozenset({"enable_thinking", "thinking"})
_UNKNOWN: Final = _refuse("this seller does not know the member, so it has no price")
_READ_LATER: Final = _allow("read by the parser of the endpoint, which checks it")

_PRIVATE: Final = _drop("the consumer's own label; the model server has no use for it")
_HINT: Final = _drop("a hint about speed or storage that changes neither answer nor price")
_MORE_OUTPUT: Final = "it makes answers longer without text that could be counted"
_OTHER_WORK: Final = "it asks for work outside the model"
_ROUTING: Final = _drop("read by routers from the request; never sent to a model server")

_EVERYWHERE: Final[Mapping[str, MemberRule]] = {
    "model": _READ_LATER,
    "user": _PRIVATE,
    "metadata": _PRIVATE,
    "safety_identifier": _PRIVATE,
    "provider": _ROUTING,
    "models": _ROUTING,
    "route": _refuse("fallbacks are chosen with models and the Infern headers", off=("fallback",)),
    "transforms": _refuse("prompts are never rewritten here", off=([],)),
    "plugins": _refuse(_OTHER_WORK, off=([],)),
}

_GENERATION: Final[Mapping[str, MemberRule]] = {
    **_EVERYWHERE,
    "stream": _READ_LATER,
    "stream_options": _READ_LATER,
    "max_tokens": _READ_LATER,
    "n": _READ_LATER,
    "temperature": _allow("sampling", "a number", _is_number),
    "top_p": _allow("sampling", "a number", _is_number),
    "top_k": _allow("sampling; vLLM and llama.cpp know it", "an integer", is_int),
    "min_p": _allow("sampling; vLLM and llama.cpp know it", "a number", _is_number),
    "presence_penalty": _allow("sampling", "a number", _is_number),
    "frequency_penalty": _allow("sampling", "a number", _is_number),
    "repetition_penalty": _allow("sampling; vLLM's name", "a number", _is_number),
    "repeat_penalty": _allow("sampling; llama.cpp's name", "a number", _is_number),
    "seed": _allow("sampling", "an integer", is_int),
    "stop": _allow(
        "ends answers sooner; its bytes are generated and not delivered",
        f"a text or up to {MAX_STOP_SEQUENCES} texts of 1 to {MAX_STOP_BYTES} bytes",
        _is_stop,
    ),
    "logit_bias": _allow(
        "sampling; it can force tokens without text, so bytes no longer check the usage",
        f"an object of up to {MAX_LOGIT_BIAS} token ids with numbers from -100 to 100",
        _is_bias,
    ),
    "ignore_eos": _allow(
        "runs to the token limit, which is priced; bytes no longer check the usage",
        "true or false",
        _is_bool,
    ),
    "min_tokens": _allow(
        "at most the token limit, which is priced; bytes no longer check the usage",
        "an integer of 0 or more",
        _is_token_count,
    ),
    "prompt_cache_key": _HINT,
    "prompt_cache_retention": _HINT,
    "service_tier": _drop("there is one price and one queue here"),
    "store": _drop("nothing is stored here, and the answer is the same"),
    "usage": _drop("OpenRouter's switch for usage, which is always reported here"),
    "cache_prompt": _drop("the operator decides: a shared cache tells strangers about prompts"),
    "echo": _refuse("it returns the prompt as if it were answer", off=(False,)),
    "n_predict": _refuse("it overrides the priced limit; use max_tokens"),
    "prompt_logprobs": _refuse(
        "it computes and returns far more than the answer",
        off=(
            0,
            False,
        ),
    ),
    "logits_processors": _refuse("it runs code of the request", off=([],)),
    "stop_token_ids": _refuse("use stop", off=([],)),
    "allowed_token_ids": _refuse(_MORE_OUTPUT, off=([],)),
    "skip_special_tokens": _refuse("special tokens stay hidden", off=(True,)),
    "include_reasoning": _refuse("reasoning is paid output and is always delivered", off=(True,)),
    "grammar": _refuse("use response_format"),
    "guided_json": _refuse("use response_format"),
    "guided_regex": _refuse("use response_format"),
    "guided_choice": _refuse("use response_format"),
    "guided_grammar": _refuse("use response_format"),
    "structured_outputs": _refuse("use response_format"),
    "json_schema": _refuse("use response_format"),
    "truncate_prompt_tokens": _refuse("prompts are never cut here"),
    "chat_template": _refuse("it runs code of the request and hides what the prompt is"),
    "documents": _refuse("send documents as messages, which have a price", off=([],)),
    "priority": _refuse("there is one queue here", off=(0,)),
}

CHAT_MEMBERS: Final[Mapping[str, MemberRule]] = {
    **_GENERATION,
    "messages": _READ_LATER,
    "tools": _READ_LATER,
    "tool_choice": _READ_LATER,
    "response_format": _READ_LATER,
    "max_completion_tokens": _READ_LATER,
    "logprobs": _allow("returned with tokens that are paid", "true or false", _is_bool),
    "top_logprobs": _allow(
        "returned with tokens that are paid", f"0 to {MAX_TOP_LOGPROBS}", _is_logprob_count
    ),
    "parallel_tool_calls": _allow("tool calls are paid output", "true or false", _is_bool),
    "reasoning_effort": _allow(
        "read by the template; reasoning is paid output", "a short lower-case word", _is_word
    ),
    "chat_template_kwargs": _allow(
        "only switches: a text could be repeated by the template for every message",
        "an object of enable_thinking and thinking, true or false; nothing else has a price",
        _is_template_switches,
    ),
    "verbosity": _drop("a hint that open models do not know"),
    "prediction": _drop("a hint about speed; predicted text is neither used nor charged"),
    "modalities": _refuse("only text is delivered", off=(["text"],)),
    "audio": _refuse("only text is delivered"),
    "web_search_options": _refuse(_OTHER_WORK),
    "functions": _refuse("use tools", off=([],)),
    "function_call": _refuse(
        "use tool_choice",
        off=(
            "auto",
            "none",
        ),
    ),
    "reasoning": _refuse("use reasoning_effort"),
    "thinking": _refuse("use reasoning_effort or chat_template_kwargs"),
    "reasoning_format": _refuse(
        "reasoning has its own member",
        off=(
            "auto",
            "deepseek",
        ),
    ),
    "add_generation_prompt": _refuse("the answer always begins anew", off=(True,)),
    "continue_final_message": _refuse("use completions to continue a text", off=(False,)),
    "mm_processor_kwargs": _refuse("it changes how many tokens an image has"),
}

COMPLETIONS_MEMBERS: Final[Mapping[str, MemberRule]] = {
    **_GENERATION,
    "prompt": _READ_LATER,
    "suffix": _READ_LATER,
    "logprobs": _allow(
        "returned with tokens that are paid", f"0 to {MAX_TOP_LOGPROBS}", _is_logprob_count
    ),
    "best_of": _READ_LATER,
    "prompt_embeds": _refuse("embeddings as prompts have no price"),
}

EMBEDDINGS_MEMBERS: Final[Mapping[str, MemberRule]] = {
    **_EVERYWHERE,
    "input": _READ_LATER,
    "encoding_format": _allow(
        "how vectors are written", "float or base64", lambda v: v in ("float", "base64")
    ),
    "dimensions": _allow(
        "shortens vectors",
        "an integer from 1 to 65536",
        lambda v: isinstance(v, int) and is_int(v) and 1 <= v <= 65_536,
    ),
    "stream": _refuse("vectors are not streamed", off=(False,)),
}

ROUTING_MEMBERS: Final = ("provider", "models")
UNVERIFIABLE_MEMBERS: Final = ("logit_bias", "ignore_eos", "min_tokens")
"""With any of these, an answer may have tokens without bytes; see `usage.charge_usage`."""

MESSAGE_MEMBERS: Final[Mapping[str, MemberRule]] = {
    "role": _READ_LATER,
    "content": _READ_LATER,
    "name": _allow("counted as prompt", "a text", lambda v: isinstance(v, str)),
    "refusal": _allow("counted as prompt", "a text", lambda v: isinstance(v, str)),
    "reasoning": _allow("counted as prompt", "a text", lambda v: isinstance(v, str)),
    "reasoning_content": _allow("counted as prompt", "a text", lambda v: isinstance(v, str)),
    "tool_call_id": _allow("counted as prompt", "a text", lambda v: isinstance(v, str)),
    "tool_calls": _READ_LATER,
    "function_call": _refuse("use tool_calls"),
    "audio": _refuse("only text is delivered, so there is no audio to refer to"),
    "annotations": _drop("came with an earlier answer; not part of a prompt"),
    "cache_control": _HINT,
}
