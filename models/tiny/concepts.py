"""The terms of Infern, CKB and Fiber that the tiny model can explain.

Plain data, all of it written for this project. ``dialogues.py`` turns it into questions and
answers; keeping the words here means that a fact is corrected in one place and then retrained.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Concept:
    """A term somebody may ask the meaning of.

    Attributes:
        names: Ways to name it inside a sentence, the usual one first.
        answer: One or two sentences.
        more: What follows when the reader asks for more; empty when there is nothing to add.
    """

    names: tuple[str, ...]
    answer: str
    more: str = ""


CONCEPTS: tuple[Concept, ...] = (
    Concept(
        ("Infern", "the Infern network", "the Infern project", "infern"),
        "Infern is an open marketplace where people serve AI models from their own hardware and "
        "get paid per request over Fiber channels on CKB.",
        "A provider lists a model with a price and a stake on CKB. A consumer sends a normal "
        "OpenAI style request and pays for it over Fiber. The inference itself never touches "
        "the chain.",
    ),
    Concept(
        ("F402", "the F402 scheme", "f402"),
        "F402 is HTTP 402 Payment Required wired to Fiber: an unpaid request gets a price and an "
        "invoice, and a paid request gets the answer.",
        "The invoice is bound to one request, so a proof of payment cannot be used for another "
        "one. With a prepaid balance the extra round trip disappears.",
    ),
    Concept(
        ("CKB", "ckb", "the CKB chain", "Common Knowledge Base", "the Common Knowledge Base"),
        "CKB is the Common Knowledge Base, the proof of work base chain of Nervos. It stores "
        "state in cells, and Infern keeps its listings and stakes there.",
        "One CKB is 100,000,000 shannon. One CKB also gives its owner the right to store one "
        "byte on the chain, and scripts decide who may change a cell and how.",
    ),
    Concept(
        ("Fiber", "the Fiber network", "fiber", "CKB Fiber"),
        "Fiber is a network of payment channels on CKB. It moves small payments off chain in "
        "milliseconds.",
        "Two nodes lock money in a channel once, then pay each other as often as they like. "
        "Payments can also hop over other nodes, so one channel reaches the whole network.",
    ),
    Concept(
        ("a shannon", "shannon", "shannons", "the shannon unit"),
        "A shannon is the smallest unit of CKB. One CKB is 100,000,000 shannon.",
        "It is named after Claude Shannon, who founded information theory.",
    ),
    Concept(
        ("a payment channel", "a channel", "payment channels", "a Fiber channel", "channels"),
        "A payment channel is money that two parties lock on chain once and then move back and "
        "forth off chain, as often as they like.",
        "Only the opening and the closing of a channel are transactions on the chain. Everything "
        "in between is a signed update that both sides keep.",
    ),
    Concept(
        ("a provider", "an Infern provider", "providers", "the provider"),
        "A provider is somebody who serves an AI model on their own hardware and gets paid for "
        "each request.",
        "A provider runs a model server, the provider agent and a Fiber node, and puts up a "
        "stake on CKB that can be slashed.",
    ),
    Concept(
        ("a consumer", "an Infern consumer", "consumers", "the consumer"),
        "A consumer is somebody who sends requests to a model on Infern and pays for them.",
        "A consumer needs no account: a Fiber node or a prepaid key is enough, and any OpenAI "
        "client works.",
    ),
    Concept(
        ("a router", "the router", "routers", "an Infern router"),
        "A router picks a live provider for your request, forwards it and settles the payment.",
        "Consumers open one channel to a router and reach all providers through it. If a "
        "provider fails, the router can try another one.",
    ),
    Concept(
        ("an invoice", "a Fiber invoice", "invoices"),
        "An invoice is a signed request for payment: it names the amount, the payee and the "
        "payment hash.",
        "A Fiber invoice is Open at first, then Received, then Paid. It can also be Cancelled or "
        "Expired.",
    ),
    Concept(
        ("a hold invoice", "hold invoices", "hold mode", "a hodl invoice"),
        "A hold invoice lets the payee receive a payment without taking it yet. The money is "
        "settled on delivery or given back.",
        "In hold mode the provider keeps the preimage until the answer is delivered. If the "
        "provider fails, the payment is cancelled and you keep your money.",
    ),
    Concept(
        ("a preimage", "the preimage", "preimages"),
        "A preimage is a secret of 32 bytes. Revealing it settles the payment that was locked to "
        "its hash.",
    ),
    Concept(
        ("a payment hash", "the payment hash", "payment hashes"),
        "A payment hash is the hash of a secret preimage. It locks a payment until the preimage "
        "is revealed.",
    ),
    Concept(
        ("a TLC", "TLCs", "a time locked contract", "TLC"),
        "A TLC is the conditional payment of Fiber: it pays whoever shows the preimage in time, "
        "and otherwise goes back.",
    ),
    Concept(
        ("a stake", "the stake", "staking", "a provider stake"),
        "A stake is a deposit on CKB that a provider can lose by cheating.",
        "It makes promises costly to break: overcharging, serving the wrong model or signing two "
        "different receipts for one request can all be punished.",
    ),
    Concept(
        ("slashing", "a slash", "getting slashed"),
        "Slashing means taking part of a provider's stake because there is evidence of cheating.",
        "Signed receipts are the best evidence, because a script on the chain can check them "
        "without trusting anybody.",
    ),
    Concept(
        ("a listing", "listings", "an Infern listing", "the listing"),
        "A listing is a cell on CKB that says which model a provider offers and at what price.",
    ),
    Concept(
        ("a cell", "cells", "a CKB cell", "the cell model"),
        "A cell is the unit of state on CKB. It holds capacity, data and scripts, and it is "
        "always consumed as a whole.",
    ),
    Concept(
        ("a type script", "type scripts", "the type script"),
        "A type script is a program on CKB that decides how a cell may change.",
    ),
    Concept(
        ("a lock script", "lock scripts", "the lock script"),
        "A lock script is a program on CKB that decides who may spend a cell.",
    ),
    Concept(
        ("an epoch", "epochs", "a CKB epoch"),
        "An epoch on CKB is a period of about four hours.",
    ),
    Concept(
        ("a receipt", "receipts", "an Infern receipt", "a signed receipt"),
        "A receipt is a signed statement from the provider: what was asked, what was answered, "
        "how many tokens it took and what it cost.",
    ),
    Concept(
        ("the free tier", "free tier", "the free allowance"),
        "The free tier is a small allowance for new users. It needs an identity but no payment.",
        "The allowance is paid by a treasury and capped per person, so that nobody can drain it.",
    ),
    Concept(
        ("a prepaid balance", "prepaid", "a tab", "the prepaid balance", "prepaid mode"),
        "A prepaid balance is money you deposit once. Each request is debited from it, with no "
        "payment round trip.",
    ),
    Concept(
        ("an indexer", "the indexer", "indexers"),
        "The indexer follows the chain and serves a directory of providers, models, listings and "
        "reputation.",
    ),
    Concept(
        ("an honesty check", "honesty checks", "the honesty check", "honesty probes"),
        "An honesty check asks a provider questions with known answers from the listed model, to "
        "catch a provider that serves a cheaper model.",
        "It finds other models, heavy quantisation and injected prompts. It cannot tell 8 bit "
        "from 16 bit weights by the text alone.",
    ),
    Concept(
        ("a liveness check", "liveness checks", "liveness probes"),
        "A liveness check finds out whether a provider can be reached.",
    ),
    Concept(
        ("an inference check", "inference checks", "inference probes"),
        "An inference check sends a real prompt and looks for a sane answer in reasonable time.",
    ),
    Concept(
        ("reputation", "a reputation score", "provider reputation"),
        "Reputation is a score that anyone can compute from chain events and signed check "
        "results. Routers use it to choose providers.",
    ),
    Concept(
        ("a weights hash", "the weights hash", "weight hashes", "a model hash"),
        "A weights hash is a fingerprint of a model file. It names exactly which model a listing "
        "means.",
    ),
    Concept(
        ("GGUF", "a GGUF file", "the GGUF format", "gguf"),
        "GGUF is the file format of llama.cpp for model weights, tokenizer and settings.",
    ),
    Concept(
        ("quantisation", "quantization", "a quantised model", "Q8_0"),
        "Quantisation stores the weights of a model with fewer bits, which saves memory and "
        "costs a little quality.",
    ),
    Concept(
        ("a token", "tokens", "an LLM token"),
        "A token is a piece of text, often part of a word. Models read and write tokens, and "
        "prices are per million tokens.",
    ),
    Concept(
        ("a language model", "an LLM", "LLMs", "a large language model", "language models"),
        "A language model is a program that predicts the next token of a text. That is enough to "
        "answer questions.",
    ),
    Concept(
        ("inference", "LLM inference", "model inference"),
        "Inference is running a trained model to get an answer. On Infern it happens on the "
        "provider's own hardware.",
    ),
    Concept(
        ("HTTP 402", "status 402", "error 402", "402", "Payment Required"),
        "HTTP 402 is the status code Payment Required. Infern answers an unpaid request with it.",
    ),
    Concept(
        ("Nervos", "the Nervos network", "nervos"),
        "Nervos is the project behind CKB, its base chain.",
    ),
    Concept(
        ("a blockchain", "blockchains", "blockchain", "a chain"),
        "A blockchain is a shared record of transactions that many nodes check and nobody owns.",
    ),
    Concept(
        ("a wallet", "wallets", "a CKB wallet"),
        "A wallet keeps your keys and signs transactions with them.",
    ),
    Concept(
        ("the testnet", "testnet", "a testnet"),
        "The testnet is a public CKB network whose coins have no value. It is the place to try "
        "things.",
    ),
    Concept(
        ("the devnet", "devnet", "a dev network", "the embedded devnet"),
        "The devnet is a whole network on your own machine: chain, Fiber nodes and a model, all "
        "with play money.",
    ),
    Concept(
        ("a UDT", "UDTs", "a user defined token", "a stablecoin"),
        "A UDT is a user defined token on CKB, for example a stablecoin. Fiber channels can carry "
        "it as well as CKB.",
    ),
    Concept(
        ("a hop", "hops", "a multi hop payment", "multi hop payments"),
        "A hop is a node that forwards a payment. Over several hops you can pay somebody with "
        "whom you share no channel.",
    ),
    Concept(
        ("a routing fee", "routing fees", "the routing fee"),
        "A routing fee is the small amount a node takes for forwarding a payment.",
    ),
    Concept(
        ("liquidity", "inbound liquidity", "channel liquidity"),
        "Liquidity is the money in a channel that can move in the direction you need. To be paid "
        "you need inbound liquidity.",
    ),
    Concept(
        ("a Fiber node", "a node", "fnn", "an fnn node"),
        "A Fiber node is the program that holds your channels and keys and sends and receives "
        "payments.",
    ),
    Concept(
        ("the paying proxy", "a paying proxy", "infern proxy", "the local proxy"),
        "The paying proxy runs on your machine, pays for each request within your budget, and "
        "lets any OpenAI client use Infern.",
    ),
    Concept(
        ("an API key", "API keys", "an Infern key"),
        "An API key on Infern stands for a prepaid balance. Keep it secret, because whoever has "
        "it can spend it.",
    ),
    Concept(
        ("a watchtower", "watchtowers"),
        "A watchtower watches your channels while you are offline and stops the other side from "
        "using an old state.",
    ),
    Concept(
        ("streaming", "a stream", "a streamed answer"),
        "Streaming means that the answer arrives piece by piece while the model is still writing.",
    ),
    Concept(
        ("failover", "fail over"),
        "Failover means that the router sends your request to another provider when the first "
        "one fails.",
    ),
    Concept(
        ("the treasury", "a treasury"),
        "The treasury is the fund that pays for the free tier.",
    ),
    Concept(
        ("a context window", "the context window", "context length"),
        "The context window is how many tokens a model can look at. Mine is about a thousand "
        "tokens.",
    ),
    Concept(
        ("temperature", "the temperature setting", "sampling temperature"),
        "Temperature sets how random a model's words are. At zero it always takes the most "
        "likely token.",
    ),
    Concept(
        ("Bitcoin", "bitcoin"),
        "Bitcoin was the first blockchain. CKB uses proof of work as Bitcoin does, but its cells "
        "can hold any state.",
    ),
    Concept(
        ("the Lightning Network", "Lightning", "the lightning network"),
        "Lightning is the payment channel network of Bitcoin. Fiber does the same for CKB.",
    ),
    Concept(
        ("proof of work", "PoW", "mining"),
        "Proof of work means that blocks cost real computing power, which makes history hard to "
        "rewrite.",
    ),
    Concept(
        ("a private key", "private keys", "my private key", "a secret key"),
        "A private key is the secret that signs for your money. Never give it to anybody.",
    ),
    Concept(
        ("a hash", "hashes", "a hash function", "hashing"),
        "A hash is a short fingerprint of some data. Any change in the data gives a different "
        "hash.",
    ),
    Concept(
        ("a GPU", "GPUs", "a graphics card"),
        "A GPU is a chip that does many sums at once. Large models run much faster on it.",
    ),
    Concept(
        ("a digital signature", "a signature", "digital signatures"),
        "A digital signature proves that the owner of a key approved a message.",
    ),
)
