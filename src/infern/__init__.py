"""Infern: serve an AI model from your own machine and get paid per request over Fiber."""
