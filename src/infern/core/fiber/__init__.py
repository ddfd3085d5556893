"""Fiber, pure: invoices, the JSON-RPC vocabulary of fnn, and what its answers mean."""
