"""The OpenAI wire: requests read and bounded, bodies rewritten, usage judged, streams metered."""
