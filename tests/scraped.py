"""A server's `/metrics`, scraped."""

from typing import Any

from prometheus_client.parser import text_string_to_metric_families


class Scraped:
    """The samples of a scrape."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.samples = [
            sample
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if not sample.name.endswith("_created")
        ]

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels."""
        found = [
            sample.value
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        assert found, (name, labels)
        return sum(found)

    def by(self, name: str, label: str) -> dict[str, float]:
        """The samples of that name by a label."""
        return {s.labels[label]: s.value for s in self.samples if s.name == name}


async def scrape(running: Any) -> Scraped:
    answer = await running.client.get("/metrics")
    assert answer.status_code == 200
    return Scraped(answer.text)
