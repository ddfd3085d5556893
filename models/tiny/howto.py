"""Questions about Infern, CKB and Fiber, and the answers the tiny model learns to them.

Plain data, all of it written for this project. Answers here are short; ``longform.py`` has the
long ones.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Intent:
    """A question with many wordings and one answer.

    Attributes:
        questions: Wordings without final punctuation; the first is the plainest.
        answer: The answer to all of them.
    """

    questions: tuple[str, ...]
    answer: str


INTENTS: tuple[Intent, ...] = (
    Intent(
        (
            "how do I become a provider",
            "how can I become a provider",
            "how to be a provider",
            "I want to be a provider",
            "how do I sell inference",
            "how do I serve a model",
            "I want to serve my model",
            "how can I offer my model",
            "how do I start as a provider",
            "what do I need to become a provider",
            "steps to become a provider",
            "how do I list my model",
            "how do I join as a provider",
            "I have a GPU, what now",
            "how can I sell my GPU time",
            "provider setup",
            "provider quickstart",
        ),
        "To become a provider:\n1. Run a model server that speaks the OpenAI API.\n2. Keep a Fiber "
        "node with a channel to a router.\n3. Register your model and publish a listing with a "
        "price.\n4. Put up a stake.\n5. Start the agent with infern provider run.\nFrom then on "
        "you are paid per request.",
    ),
    Intent(
        (
            "how do I become a consumer",
            "how can I use Infern",
            "how do I use Infern",
            "how to use Infern as a consumer",
            "how do I call a model",
            "how do I buy inference",
            "I want to use a model",
            "how do I send a request",
            "how do I start as a consumer",
            "how do I join as a consumer",
            "how can I be a consumer",
            "consumer quickstart",
            "what do I need to be a consumer",
            "how do I get an answer from a provider",
        ),
        "To use Infern as a consumer, start infern proxy with a budget and point your OpenAI "
        "client at it. The proxy pays for each request over Fiber. You can also deposit a "
        "prepaid balance and use its API key.",
    ),
    Intent(
        (
            "how do I pay",
            "how do I pay for a request",
            "how can I pay",
            "what can I pay with",
            "which payment methods are there",
            "how is a request paid",
            "ways to pay",
            "how can I pay for inference",
            "what payment options do I have",
        ),
        "There are three ways to pay: a prepaid balance, an invoice for each request, or a hold "
        "invoice that is settled on delivery. A free tier exists for trying it out.",
    ),
    Intent(
        (
            "how much does it cost",
            "what does a request cost",
            "is it expensive",
            "how much do I pay",
            "what is the price",
            "how expensive is a request",
            "pricing",
            "what are the prices",
            "how much is one request",
            "what does Infern cost",
        ),
        "Each provider sets its own price: a fee per request and a price per million tokens of "
        "input and output. You see the quote before you pay.",
    ),
    Intent(
        (
            "who sets the price",
            "who decides the price",
            "can I set my own price",
            "how are prices set",
            "who chooses the price of a model",
        ),
        "The provider sets the price in the listing. Consumers and routers choose among the "
        "offers.",
    ),
    Intent(
        (
            "is Infern open source",
            "is the code open",
            "can I read the source code",
            "where is the source code",
            "what licence does Infern have",
            "is it free software",
            "what is the license",
        ),
        "Yes, Infern is open source under the MIT licence.",
    ),
    Intent(
        (
            "why does Infern use CKB",
            "why CKB",
            "what is CKB good for here",
            "why use CKB",
            "why do you need a chain",
            "why a blockchain",
            "what does CKB do in Infern",
        ),
        "CKB holds what must be shared and trusted: models, listings, stakes and reputation. Each "
        "is a cell that its owner controls.",
    ),
    Intent(
        (
            "why does Infern use Fiber",
            "why Fiber",
            "what is Fiber good for here",
            "why use Fiber",
            "what does Fiber do in Infern",
            "why payment channels",
            "why not pay on chain",
        ),
        "A request costs a fraction of a CKB and must settle in milliseconds. Fiber channels do "
        "that, while a transaction on the chain would be too slow and too dear.",
    ),
    Intent(
        (
            "how fast is a payment",
            "how long does a payment take",
            "is a payment fast",
            "how quick is Fiber",
            "payment speed",
            "how many seconds does a payment take",
        ),
        "A Fiber payment takes a fraction of a second. With a prepaid balance there is no wait at "
        "all.",
    ),
    Intent(
        (
            "do I need an account",
            "must I sign up",
            "do I have to register",
            "is there a login",
            "do I need a credit card",
            "can I pay by credit card",
            "do you need my email",
        ),
        "No. There are no accounts, no cards and no chargebacks. You pay over Fiber and that is "
        "enough.",
    ),
    Intent(
        (
            "what happens if a provider fails",
            "what if the provider goes offline",
            "what if I get no answer",
            "do I lose money if it fails",
            "what if the answer never comes",
            "what happens when a request fails",
            "do I get a refund",
            "how do refunds work",
        ),
        "If a provider fails, a held payment is cancelled and a prepaid hold is released, so you "
        "do not pay for an answer you did not get.",
    ),
    Intent(
        (
            "can a provider cheat",
            "how do you stop cheating",
            "what if a provider cheats",
            "how do I know the model is real",
            "can a provider swap the model",
            "how are providers kept honest",
            "is it safe to trust a provider",
            "how do you check providers",
        ),
        "A provider can try, but checks compare its answers with the listed model, every answer "
        "is signed, and cheating costs stake and reputation.",
    ),
    Intent(
        (
            "who holds my money",
            "is Infern custodial",
            "do you hold my coins",
            "where is my money",
            "is my money safe",
            "who controls my funds",
        ),
        "Your Fiber node holds your channel money. With a prepaid balance the seller holds only "
        "what you deposited, so keep it small.",
    ),
    Intent(
        (
            "how do I get CKB",
            "where can I buy CKB",
            "how do I get test coins",
            "where do I get testnet coins",
            "how do I get shannon",
            "is there a faucet",
        ),
        "On the devnet the demo gives you coins. On the testnet use a public faucet. On mainnet "
        "people get CKB from an exchange or by mining.",
    ),
    Intent(
        (
            "how do I start the demo",
            "how do I run the demo",
            "start the demo",
            "run the demo",
            "how can I try Infern",
            "how do I try it",
            "show me a demo",
            "quickstart",
            "how do I get started",
            "getting started",
        ),
        "Run infern demo. It starts a whole network on your machine and shows one paid request "
        "step by step.",
    ),
    Intent(
        (
            "what hardware do I need",
            "do I need a GPU",
            "can I run it on a laptop",
            "what computer do I need",
            "does it run on a Mac",
            "hardware requirements",
            "is my laptop enough",
        ),
        "Any machine that can run a model server will do. A GPU helps with large models, and this "
        "toy model runs on one CPU core.",
    ),
    Intent(
        (
            "which model servers work",
            "does it work with Ollama",
            "does it work with vLLM",
            "does it work with llama.cpp",
            "does it work with LM Studio",
            "can I use Ollama",
            "which backends are supported",
            "what model servers are supported",
        ),
        "Anything that speaks the OpenAI API works: vLLM, llama.cpp, Ollama, LM Studio and others.",
    ),
    Intent(
        (
            "does it work with the OpenAI SDK",
            "can I use my OpenAI client",
            "is it compatible with OpenAI",
            "does the OpenAI client work",
            "do I need to change my code",
            "is the API compatible",
        ),
        "Yes. The wire format is the OpenAI API. Change the base URL to the paying proxy or to a "
        "router, and your client works.",
    ),
    Intent(
        (
            "which models can I use",
            "what models are there",
            "which models are offered",
            "what models does Infern have",
            "list the models",
            "can I choose the model",
        ),
        "Whatever providers list. You can name a provider, or name a model and let a router pick "
        "a provider for you.",
    ),
    Intent(
        (
            "is Infern on mainnet",
            "can I use real money",
            "is it ready for production",
            "is Infern ready",
            "how mature is Infern",
            "is it stable",
        ),
        "Infern is early software. Try it on the devnet or the testnet first, and use small "
        "amounts.",
    ),
    Intent(
        (
            "how do I open a channel",
            "how can I open a channel",
            "open a channel",
            "how is a channel opened",
            "how to open a payment channel",
            "opening a channel",
        ),
        "To open a channel, connect your Fiber node to a peer and fund the channel with one "
        "transaction on CKB. When it confirms, you can pay.",
    ),
    Intent(
        (
            "how do I close a channel",
            "how can I close a channel",
            "close a channel",
            "how is a channel closed",
            "how to close a payment channel",
            "closing a channel",
        ),
        "Both sides sign a closing transaction that pays out the latest balances on CKB. If the "
        "other side is gone, you can close it alone after a delay.",
    ),
    Intent(
        (
            "how many channels do I need",
            "do I need a channel to every provider",
            "must I open many channels",
            "is one channel enough",
        ),
        "One channel to a router is enough. Payments reach the other nodes over hops.",
    ),
    Intent(
        (
            "does inference run on chain",
            "is the model on the blockchain",
            "does the answer go on chain",
            "is my prompt stored on chain",
            "are my messages on the blockchain",
            "does the chain run the model",
        ),
        "No. Inference runs on the provider's hardware. Prompts and answers never go on the chain.",
    ),
    Intent(
        (
            "is my prompt private",
            "can the provider read my prompt",
            "who can read my messages",
            "is my data private",
            "what about privacy",
            "do you store my messages",
        ),
        "The provider sees your prompt, because it must answer it. Do not send secrets to "
        "strangers.",
    ),
    Intent(
        (
            "what is the difference between CKB and Fiber",
            "CKB or Fiber",
            "CKB versus Fiber",
            "how do CKB and Fiber differ",
            "compare CKB and Fiber",
        ),
        "CKB is the chain that holds shared state. Fiber is the channel network on top that moves "
        "the money.",
    ),
    Intent(
        (
            "what is the difference between a provider and a consumer",
            "provider or consumer",
            "how do providers and consumers differ",
            "compare providers and consumers",
        ),
        "A provider serves models and gets paid. A consumer sends requests and pays.",
    ),
    Intent(
        (
            "what is Infern written in",
            "which language is Infern written in",
            "what programming language is used",
            "which languages does the code use",
        ),
        "Infern is written in Python, its scripts on the chain in Rust, and the chat page in "
        "TypeScript.",
    ),
    Intent(
        (
            "how do I earn money",
            "how can I earn CKB",
            "how do providers earn",
            "can I earn with it",
            "how do I make money with Infern",
            "how do I get paid",
        ),
        "You earn by serving a model. Each request pays your price straight into your Fiber "
        "channel.",
    ),
    Intent(
        (
            "how much is one CKB in shannon",
            "how many shannon are in one CKB",
            "how many shannon is a CKB",
            "how many shannons make a CKB",
            "CKB in shannon",
        ),
        "One CKB is 100,000,000 shannon.",
    ),
    Intent(
        (
            "who was Claude Shannon",
            "who is Claude Shannon",
            "why is it called shannon",
            "who is the shannon named after",
            "where does the name shannon come from",
        ),
        "Claude Shannon founded information theory. The smallest unit of CKB is named after him.",
    ),
    Intent(
        (
            "what is infern doctor",
            "something is broken",
            "how do I find a problem",
            "it does not work",
            "my node does not work",
            "how do I check my setup",
            "help me debug",
        ),
        "Run infern doctor. It checks the node, channels, liquidity, clock and keys and says what "
        "to do next.",
    ),
    Intent(
        (
            "what problem does Infern solve",
            "why does Infern exist",
            "what is Infern for",
            "what is the point of Infern",
            "why should I care",
            "what is the goal of Infern",
            "why was Infern made",
        ),
        "Many people can run a model but cannot charge strangers for it. Infern lets them collect "
        "many small payments with no accounts.",
    ),
    Intent(
        ("who is Infern for", "who should use Infern", "who uses Infern", "is Infern for me"),
        "Infern is for the long tail: home operators, people with a rented GPU, and fine tuners "
        "with a niche model.",
    ),
)
