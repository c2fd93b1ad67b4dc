"""The PromQL of panels: every selector is narrowed by the dashboard's variables.

`by` names the labels that are kept, `where` more matchers: `model=~"$model"`.
"""

SCOPE = 'job=~"$job", instance=~"$instance"'


def select(metric: str, where: str = "") -> str:
    """The series of the chosen servers."""
    return f"{metric}{{{SCOPE}, {where}}}" if where else f"{metric}{{{SCOPE}}}"


def total(metric: str, *by: str, where: str = "") -> str:
    """The sum of a gauge."""
    return f"sum{_kept(by)} ({select(metric, where)})"


def highest(metric: str, *by: str, where: str = "") -> str:
    """The highest of a gauge: of what every server says about the same thing, a job's loss."""
    return f"max{_kept(by)} ({select(metric, where)})"


def rate(counter: str, *by: str, where: str = "") -> str:
    """How much a counter grows, by second."""
    return f"sum{_kept(by)} (rate({select(counter, where)}[$__rate_interval]))"


def increase(counter: str, *by: str, where: str = "") -> str:
    """How much a counter has grown in the time that is shown."""
    return f"sum{_kept(by)} (increase({select(counter, where)}[$__range]))"


def quantile(q: float, histogram: str, *by: str, where: str = "") -> str:
    """The value that the share `q` of the observations does not exceed."""
    return f"histogram_quantile({q:g}, {rate(f'{histogram}_bucket', 'le', *by, where=where)})"


def mean(histogram: str, *by: str, where: str = "") -> str:
    """The mean of the observations."""
    return share(
        rate(f"{histogram}_sum", *by, where=where), rate(f"{histogram}_count", *by, where=where)
    )


def share(part: str, whole: str) -> str:
    """One expression by another."""
    return f"{part} / {whole}"


def _kept(by: tuple[str, ...]) -> str:
    return f" by ({', '.join(by)})" if by else ""
