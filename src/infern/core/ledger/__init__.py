"""Ledger rules, pure: tabs, holds, deposits, transfers and their conservation.

An engine (SQLite, PostgreSQL) loads rows, applies these functions and writes rows back in one
transaction. The rules are written once here and tested without any database.
"""
