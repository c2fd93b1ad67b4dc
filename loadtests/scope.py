"""How much a benchmark measures, and on which adapters."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scope:
    """Times in seconds."""

    users: int
    seconds: int
    """Of a turn, a load, and the quiet tenant's stay."""
    rounds: int
    max_tokens: int
    slots: int
    starts: int
    """Of each server; the last one counts."""
    pairs: int
    """Of a cold and a warm first token."""
    cold_loads: int
    """Beside a steady stream, in each round."""
    cold_rounds: int
    training_rows: int
    training_epochs: int
    held_out_rows: int
    """Of the example headlines."""

    @property
    def names(self) -> list[str]:
        """Adapters with weights of their own: four for each slot."""
        return [f"bench-{number}" for number in range(4 * self.slots)]

    @property
    def cold_names(self) -> list[str]:
        """Adapters for the requests that must be the first to name them."""
        return [f"cold-{n}" for n in range(self.pairs + self.cold_loads * self.cold_rounds)]
