"""Everything in a chat request that reaches the prompt, checked and counted.

Besides the messages that is: tool definitions and tool choice, the schema of `response_format`
(some servers put it into the system message), and switches that the template reads.
"""

from typing import Final

from infern.core.wire.members import MESSAGE_MEMBERS, keep_members, unpriceable, wrong_shape
from infern.core.wire.prompt_size import PromptSize, PromptTally
from infern.core.wire.strict_json import Json, JsonObject, dumps

MAX_MESSAGES: Final = 16_384
MAX_TOOLS: Final = 1_024
MAX_SCHEMA_BYTES: Final = 64 * 1024
"""A larger schema takes a model server seconds to turn into a grammar, which has no price."""
MAX_SCHEMA_PROPERTIES: Final = 256
"""Optional properties may come in any combination; llama.cpp's grammar of 2,000 of them costs it 24
seconds, and an answer of 400 that nobody pays for."""
ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool"})
IMAGE_PREFIX: Final = "data:image/"
_DETAILS: Final = frozenset({"auto", "low", "high"})
_AUDIO_FORMATS: Final = frozenset({"wav", "mp3"})
_CHOICES: Final = frozenset({"none", "auto", "required"})
_MESSAGE_TEXTS: Final = frozenset(
    {"name", "refusal", "reasoning", "reasoning_content", "tool_call_id"}
)


def chat_prompt_size(members: JsonObject) -> PromptSize:
    """Count a chat request's prompt, and leave only served members in its messages.

    Args:
        members: The members that were kept of the request; `messages` is replaced in place.

    Raises:
        RemoteProtocolError: `invalid_request` or `unpriceable_request` with `param`; unmoved.
    """
    tally = PromptTally()
    messages = members.get("messages")
    if not isinstance(messages, list) or not 0 < len(messages) <= MAX_MESSAGES:
        raise wrong_shape("messages", f"a list of 1 to {MAX_MESSAGES} messages")
    kept: list[Json] = []
    for index, message in enumerate(messages):
        kept.append(_count_message(message, f"messages[{index}]", tally))
    members["messages"] = kept
    if "tools" in members:
        _count_tools(members["tools"], tally)
    if "tool_choice" in members:
        _count_tool_choice(members["tool_choice"], tally)
    if "response_format" in members:
        _count_response_format(members["response_format"], tally)
    for name in ("reasoning_effort", "chat_template_kwargs"):
        if name in members:
            tally.dumped(members[name])
    return tally.size()


def _count_message(message: Json, path: str, tally: PromptTally) -> JsonObject:
    if not isinstance(message, dict):
        raise wrong_shape(path, "an object")
    kept = keep_members(message, MESSAGE_MEMBERS, path=path + ".")
    role = kept.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise wrong_shape(path + ".role", "one of " + ", ".join(sorted(ROLES)))
    tally.messages += 1
    tally.text(role)
    for name, text in kept.items():
        if name in _MESSAGE_TEXTS and isinstance(text, str):
            tally.text(text)
            tally.part()
    content = kept.get("content")
    if isinstance(content, list):
        for index, part in enumerate(content):
            _count_part(part, f"{path}.content[{index}]", tally, dumped=role == "tool")
    elif isinstance(content, str):
        _count_text(content, tally, dumped=role == "tool")
    elif content is not None:
        raise wrong_shape(path + ".content", "a text or a list of parts")
    if "tool_calls" in kept:
        _count_tool_calls(kept["tool_calls"], path + ".tool_calls", tally)
    return kept


def _count_text(text: str, tally: PromptTally, *, dumped: bool) -> None:
    """Tool results are dumped as JSON by some templates (Llama 3.1), other contents by none."""
    if dumped:
        tally.dumped_text(text)
    else:
        tally.text(text)


def _count_part(part: Json, path: str, tally: PromptTally, *, dumped: bool) -> None:
    if not isinstance(part, dict):
        raise wrong_shape(path, "an object")
    tally.part()
    kind = part.get("type")
    if kind in ("text", "refusal") and isinstance(kind, str):
        text = part.get(kind)
        _only(part, path, "type", kind, "cache_control", "annotations")
        if not isinstance(text, str):
            raise wrong_shape(f"{path}.{kind}", "a text")
        _count_text(text, tally, dumped=dumped)
        part.pop("cache_control", None)
        part.pop("annotations", None)
    elif kind == "image_url":
        _check_image(part, path)
        tally.images += 1
    elif kind == "input_audio":
        _check_audio(part, path)
        tally.audios += 1
    else:
        raise unpriceable(path, "only text, image_url and input_audio parts have a price")


def _check_image(part: JsonObject, path: str) -> None:
    _only(part, path, "type", "image_url")
    image = part.get("image_url")
    if not isinstance(image, dict):
        raise wrong_shape(path + ".image_url", "an object with a url")
    _only(image, path + ".image_url", "url", "detail")
    url = image.get("url")
    if not isinstance(url, str) or not url.startswith(IMAGE_PREFIX):
        # A model server would fetch any other address from inside the provider's network.
        raise unpriceable(
            path + ".image_url.url", "images must be in the request itself, as data:image/…;base64"
        )
    detail = image.get("detail")
    if detail is not None and detail not in _DETAILS:
        raise wrong_shape(path + ".image_url.detail", "auto, low or high")


def _check_audio(part: JsonObject, path: str) -> None:
    _only(part, path, "type", "input_audio")
    audio = part.get("input_audio")
    if not isinstance(audio, dict):
        raise wrong_shape(path + ".input_audio", "an object with data and format")
    _only(audio, path + ".input_audio", "data", "format")
    if not isinstance(audio.get("data"), str) or audio.get("format") not in _AUDIO_FORMATS:
        raise wrong_shape(path + ".input_audio", "base64 data with format wav or mp3")


def _count_tool_calls(calls: Json, path: str, tally: PromptTally) -> None:
    if not isinstance(calls, list) or len(calls) > MAX_TOOLS:
        raise wrong_shape(path, f"a list of at most {MAX_TOOLS} calls")
    for index, call in enumerate(calls):
        where = f"{path}[{index}]"
        if not isinstance(call, dict):
            raise wrong_shape(where, "an object")
        _only(call, where, "id", "type", "index", "function")
        function = call.get("function")
        if call.get("type", "function") != "function" or not isinstance(function, dict):
            raise unpriceable(where, "only calls of functions have a price")
        _only(function, where + ".function", "name", "arguments")
        arguments = function.get("arguments", "")
        if not isinstance(function.get("name"), str) or not isinstance(arguments, str):
            raise wrong_shape(where + ".function", "an object with name and arguments, both text")
        call.pop("index", None)
        tally.dumped({name: value for name, value in call.items() if name != "function"})
        tally.dumped(function["name"])
        tally.json_text(arguments)


def _count_tools(tools: Json, tally: PromptTally) -> None:
    if not isinstance(tools, list) or len(tools) > MAX_TOOLS:
        raise wrong_shape("tools", f"a list of at most {MAX_TOOLS} tools")
    for index, tool in enumerate(tools):
        path = f"tools[{index}]"
        if not isinstance(tool, dict):
            raise wrong_shape(path, "an object")
        if tool.get("type") != "function":
            raise unpriceable(path, "only function tools have a price; the consumer runs them")
        _only(tool, path, "type", "function")
        function = tool.get("function")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise wrong_shape(path + ".function", "an object with a name")
        _only(function, path + ".function", "name", "description", "parameters", "strict")
        _check_schema(function.get("parameters"), path + ".function.parameters")
    tally.dumped(tools)


def _count_tool_choice(choice: Json, tally: PromptTally) -> None:
    if isinstance(choice, str) and choice in _CHOICES:
        return
    function = choice.get("function") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(function, dict):
        raise unpriceable("tool_choice", "it must be none, auto, required or one function")
    _only(choice, "tool_choice", "type", "function")
    _only(function, "tool_choice.function", "name")
    if choice.get("type") != "function" or not isinstance(function.get("name"), str):
        raise wrong_shape("tool_choice", "none, auto, required or one function by name")
    tally.dumped(choice)


def _count_response_format(wanted: Json, tally: PromptTally) -> None:
    if not isinstance(wanted, dict):
        raise wrong_shape("response_format", "an object")
    if wanted.get("type") not in ("text", "json_object", "json_schema"):
        raise unpriceable("response_format", "its type must be text, json_object or json_schema")
    _only(wanted, "response_format", "type", "json_schema", "schema")
    _check_schema(wanted, "response_format")
    tally.dumped(wanted)


def _check_schema(schema: Json, path: str) -> None:
    """Refuse a schema that costs a model server much and its consumer nothing.

    Looks at every `properties`, wherever it stands: a name that only looks like one is counted too.
    """
    if len(dumps(schema)) > MAX_SCHEMA_BYTES:
        raise unpriceable(path, f"a schema has at most {MAX_SCHEMA_BYTES} bytes")
    left: list[Json] = [schema]
    while left:
        value = left.pop()
        if isinstance(value, list):
            left += value
        elif isinstance(value, dict):
            properties = value.get("properties")
            if isinstance(properties, dict) and len(properties) > MAX_SCHEMA_PROPERTIES:
                raise unpriceable(path, f"an object has at most {MAX_SCHEMA_PROPERTIES} properties")
            left += value.values()


def _only(value: JsonObject, path: str, *names: str) -> None:
    """Refuse members that nobody has counted; drop empty ones."""
    for name in [name for name, member in value.items() if member is None]:
        del value[name]
    for name in value:
        if name not in names:
            raise unpriceable(f"{path}.{name}", "this seller does not know the member")
