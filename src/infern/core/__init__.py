"""The pure core: protocol, money, selection, trust.

Nothing below this package touches a socket, a file, a clock or a source of randomness: time,
entropy and signatures arrive as arguments. `lint-imports` fails the build when that is broken.
"""
