"""Questions with long answers of roughly 110 to 190 tokens: explanations, stories and a poem.

They exist so that a demo can show a stream of some length. All of it was written for this project.
"""

from __future__ import annotations

from howto import Intent

LONG: tuple[Intent, ...] = (
    Intent(
        (
            "tell me about Infern",
            "tell me all about Infern",
            "explain Infern in detail",
            "describe Infern at length",
            "give me a long introduction to Infern",
            "introduce Infern",
            "how does Infern work",
            "explain how Infern works",
            "give me an overview of Infern",
            "what is Infern and how does it work",
        ),
        "Infern is an open marketplace for AI inference. A provider runs a model on their own "
        "hardware, sets a price and puts a listing and a stake on CKB. A consumer sends a normal "
        "OpenAI style request. If it is not paid yet, the answer is 402 with a Fiber invoice. The "
        "consumer pays it over a payment channel, sends the proof, and gets the answer as a "
        "stream. CKB holds what must be shared and trusted. Fiber moves the money, many tiny "
        "payments per second. The inference stays off chain, where it belongs. Routers find live "
        "providers, checks keep them honest, and a cheater loses stake and reputation.",
    ),
    Intent(
        (
            "explain how a payment works step by step",
            "how does a payment work",
            "explain a payment step by step",
            "walk me through a payment",
            "what happens when I pay",
            "show me the steps of a payment",
            "how does F402 work step by step",
            "how does F402 work",
            "explain the payment flow",
            "what are the steps of a paid request",
        ),
        "A payment works like this:\n1. You send a request without payment.\n2. The seller answers "
        "402 with a price and a Fiber invoice bound to that request.\n3. Your node checks the "
        "price against your budget.\n4. It pays the invoice over your channel; each hop locks the "
        "money to the same payment hash.\n5. The payee reveals the preimage, and every hop settles "
        "in turn.\n6. You send the request again with the proof.\n7. The seller checks the proof, "
        "marks it as used and streams the answer.\n8. At the end you get a signed receipt with "
        "the tokens and the cost.",
    ),
    Intent(
        (
            "tell me a story about a channel",
            "tell me a story about a payment channel",
            "tell me a story",
            "tell me a long story",
            "a story about a channel please",
            "can you tell a story",
            "make up a story",
            "write a story",
            "write a story about a channel",
        ),
        "Once there was a small channel between a baker and a poet. The baker locked sixty coins "
        "in it and the poet locked forty. Every morning the poet asked for bread and a few coins "
        "slid to the baker. Every evening the baker asked for a poem and a few coins slid back. "
        "The chain above them saw nothing and slept. One winter the poet fell silent. The baker "
        "waited for a day, then showed the last signed page to the chain, and the chain paid each "
        "of them what was theirs. In spring the poet came back with a new book. They laughed, "
        "signed one transaction, and the channel was open again.",
    ),
    Intent(
        (
            "tell me a story about a router",
            "a story about a router please",
            "write a story about a router",
            "make up a story about a router",
        ),
        "A young router lived where many channels met. All day it passed on coins that were never "
        "its own, and it kept one shannon in a thousand for its trouble. One night a provider "
        "went dark in the middle of a request. The router did not panic. It let the locked coins "
        "flow back to the consumer, asked another provider, and the answer came before the kettle "
        "boiled. Nobody thanked the router, but in the morning two more channels had opened.",
    ),
    Intent(
        (
            "tell me a story about a shannon",
            "a story about a shannon please",
            "write a story about a shannon",
            "make up a story about a shannon",
        ),
        "There was once a single shannon who thought it was too small to matter. A hundred million "
        "of its brothers made one CKB, and nobody ever counted it alone. Then a student far away "
        "asked a tiny model a tiny question, and the price was exactly one shannon. Off it went, "
        "over three channels and two borders, in less time than a blink. The answer was right, "
        "the student smiled, and the shannon never felt small again.",
    ),
    Intent(
        (
            "write a poem",
            "write me a poem",
            "can you write a poem",
            "tell me a poem",
            "write a poem about Fiber",
            "make a poem",
            "give me a poem",
            "poem please",
        ),
        "A coin set out at break of day,\nit had no road, it had no way,\nbut hop by hop and hand "
        "to hand\nit crossed the sea, it crossed the land.\nThe chain looked on and kept its "
        "peace,\nthe locks fell open, piece by piece,\nand where it came to rest that night\na "
        "small machine began to write.",
    ),
    Intent(
        (
            "explain CKB in detail",
            "tell me all about CKB",
            "tell me a lot about CKB",
            "give me an overview of CKB",
            "how does CKB work",
            "explain how CKB works",
        ),
        "CKB is the base chain of Nervos, secured by proof of work. All state lives in cells. A "
        "cell has a capacity in CKB, some data, a lock script that says who may spend it and an "
        "optional type script that says how it may change. A transaction consumes cells and makes "
        "new ones, and every script runs in a small virtual machine. Capacity is also space: one "
        "CKB holds one byte. Infern keeps models, listings and stakes in such cells, because "
        "their rules can be checked by anybody.",
    ),
    Intent(
        (
            "explain Fiber in detail",
            "tell me all about Fiber",
            "tell me a lot about Fiber",
            "give me an overview of Fiber",
            "how does Fiber work",
            "explain how Fiber works",
        ),
        "Fiber is a network of payment channels on CKB. Two nodes open a channel with one "
        "transaction and then move money by signing new balances. To pay somebody further away, "
        "the payment travels over hops. Each hop locks the amount to a payment hash with a time "
        "limit. The last node shows the preimage, and the locks open one after another, so nobody "
        "in the middle can keep the money. Fees are tiny, payments settle in a fraction of a "
        "second, and channels can carry CKB or other tokens.",
    ),
    Intent(
        (
            "explain the life of a channel",
            "how does a channel work",
            "how do channels work",
            "explain how a payment channel works",
            "how does a payment channel work",
            "explain channels in detail",
            "tell me all about channels",
        ),
        "A channel lives in three parts. First it is opened: both sides lock money in one cell on "
        "CKB. Then it is used: for each payment they sign a new split of that money and throw the "
        "old one away. Nothing of this touches the chain, so it is fast and nearly free. Last it "
        "is closed: they sign a final split and the chain pays it out. If one side cheats with an "
        "old split, the other side can punish it, and a watchtower can do that while you sleep.",
    ),
    Intent(
        (
            "explain hold mode step by step",
            "how does hold mode work",
            "how do hold invoices work",
            "explain hold invoices in detail",
            "how does a hold invoice work",
        ),
        "Hold mode works like this:\n1. The provider makes an invoice from a payment hash and "
        "keeps the preimage.\n2. You pay it, and the money is locked along the path.\n3. The "
        "provider sees Received and starts the model.\n4. The answer is streamed to you.\n5. On "
        "delivery the provider reveals the preimage and is paid.\n6. If something fails, the "
        "invoice is cancelled and your money comes back.",
    ),
    Intent(
        (
            "explain the checks in detail",
            "how do the checks work",
            "how do honesty checks work",
            "explain how providers are kept honest",
            "explain honesty checks in detail",
        ),
        "There are three kinds of checks. Liveness checks ask whether a provider can be reached. "
        "Inference checks send a real prompt and look for a sane answer in time. Honesty checks "
        "compare the answers with those of the listed model. The results are signed and become "
        "part of the reputation, which anybody can compute again. A provider that fails often is "
        "no longer chosen by routers. A provider that is proved to cheat loses stake.",
    ),
)
