"""`llm` with an entry in its extra-openai-models.yaml for each need; it has no time-out to set."""

import json
import os
import tempfile
from pathlib import Path

home = Path(tempfile.mkdtemp())
os.environ["LLM_USER_PATH"] = str(home)

import llm  # noqa: E402 - it reads the variable
from task import headers_of, main  # noqa: E402 - as above


def make(task):
    entries = [
        {
            "model_id": f"infern-{number}",
            "model_name": task["model"],
            "api_base": task["base_url"],
            "api_key_name": "infern",
            "headers": headers_of(need),
        }
        for number, need in enumerate(task["needs"])
    ]
    # JSON is YAML.
    (home / "extra-openai-models.yaml").write_text(json.dumps(entries))
    # Here, because threads must not load its plugins at the same time.
    models = {
        need["need"]: llm.get_model(f"infern-{number}") for number, need in enumerate(task["needs"])
    }

    def ask(need):
        model = models[need["need"]]
        response = model.prompt(
            need["question"],
            key=need["key"],
            stream=need["how"] == "stream",
            max_tokens=6,
            temperature=0,
        )
        return "".join(response)

    return ask


main(make)
