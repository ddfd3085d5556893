"""The consumer: asks, checks the offer, pays within a budget, proves, and checks the receipt.

`exchange` is the one implementation, without I/O. `auth` runs it under any httpx2 client,
`transport` under `openai.Infern` and the paying proxy. `journal` is what makes a payment survive
a crash: it is written before anything is paid and asked before anything is paid again.
"""
