"""CKB, pure: hashes, molecule, scripts, cells' names and addresses.

Nothing here talks to a node. Bytes from outside are read strictly: one value has one encoding,
and whatever is not that encoding is refused, because hashes and signatures are made over these
bytes and two readings of one message are one too many.
"""
