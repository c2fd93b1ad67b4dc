"""The OpenAI-compatible server: one base model, many adapters."""
