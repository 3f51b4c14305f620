"""Measuring a language model in a runtime: engines in processes of their own, memory, bandwidth."""
