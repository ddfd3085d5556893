"""`completion` of the LiteLLM SDK: plain and streamed; retries at their defaults."""

import litellm
from task import headers_of, main

litellm.suppress_debug_info = True


def make(task):
    def ask(need):
        timeout = {"timeout": need["timeout_s"]} if need["timeout_s"] else {}
        streams = need["how"] == "stream"
        answer = litellm.completion(
            model="openai/" + task["model"],
            api_base=task["base_url"],
            api_key=need["key"],
            extra_headers=headers_of(need),
            messages=[{"role": "user", "content": need["question"]}],
            max_tokens=6,
            temperature=0,
            stream=streams,
            **timeout,
        )
        if streams:
            return "".join(chunk.choices[0].delta.content or "" for chunk in answer)
        return answer.choices[0].message.content

    return ask


main(make)
