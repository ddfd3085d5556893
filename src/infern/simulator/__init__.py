"""A seeded, virtual-clock world in which the real program runs and everything around it fails.

The seller's and the consumer's code, the ledger, the journal and the embedded Fiber network are the
shipped ones; only wires, time, randomness and threads are the simulator's. A run is a function of
its seed: `python -m infern.simulator --seed N` repeats it. See docs/internals/simulator.md.
"""
