"""F402, pure: HTTP 402 Payment Required wired to Fiber.

The exchange as values (`digest`, `challenge`, `offer`, `credential`, `receipt`), its rules as
functions (`verify`, `checks`) and its two sides as transition tables (`server`, `client`).
`docs/f402-spec.md` is the normative text.
"""
