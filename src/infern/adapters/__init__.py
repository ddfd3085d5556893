"""Adapters: each implements one port with one outside library and translates its errors once."""
