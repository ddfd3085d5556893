"""The command line: one program, `infern`, and the place where adapters meet services."""
