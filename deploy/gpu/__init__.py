"""`make gpu-check`: what Lorikeet promises, tried on the GPU of this machine; docs/gpu.md has more.

Nothing but the standard library is imported at the top of these modules (and typer and rich, which
come with transformers): the check also runs where only torch, peft and transformers are installed,
and says what it has left out, and why.
"""
