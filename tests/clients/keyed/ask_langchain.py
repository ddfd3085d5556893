"""ChatOpenAI of langchain-openai: plain, streamed, asynchronous; retries at their defaults."""

import asyncio
import threading

from langchain_openai import ChatOpenAI
from task import headers_of, main


def make(task):
    # One loop for all: LangChain shares its connections among clients.
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    def ask(need):
        timeout = {"timeout": need["timeout_s"]} if need["timeout_s"] else {}
        chat = ChatOpenAI(
            model=task["model"],
            base_url=task["base_url"],
            api_key=need["key"],
            default_headers=headers_of(need),
            max_tokens=6,
            temperature=0,
            **timeout,
        )
        if need["how"] == "stream":
            return "".join(chunk.content for chunk in chat.stream(need["question"]))
        if need["how"] == "async":
            answer = asyncio.run_coroutine_threadsafe(chat.ainvoke(need["question"]), loop)
            return answer.result().content
        return chat.invoke(need["question"]).content

    return ask


main(make)
