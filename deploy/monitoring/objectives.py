"""The service's objectives, and the alerts on how fast their error budgets are spent.

Multi-window burn rates as in Google's SRE workbook: a long window, so that a blip does not page,
and a short one, so that the alert ends soon after the fault.
"""

from dataclasses import dataclass

from deploy.monitoring.rules import Alert, Condition, Group, Recorded
from registry import LorikeetError

RESPONSES = "lorikeet_responses_total"
FIRST_TOKEN = "lorikeet_first_token_seconds"
COUNTED = 'class!="4xx"'
"""A client's own mistakes and limits are neither good nor bad."""
FAILURES = 'class="5xx"'
FEWEST = 10
"""Bad requests in the long window below which nobody is told, whatever their share."""


@dataclass(frozen=True)
class Objectives:
    """What is promised over 30 days."""

    availability: float = 0.999
    """Share of the requests, but those answered with 4xx, that are not answered with 5xx."""
    first_token: float = 0.95
    """Share of the requests whose first token comes within `first_token_seconds`."""
    first_token_seconds: float = 2.5
    """One of the histogram's bounds."""

    def __post_init__(self) -> None:
        from serve.metrics import TTFT_BUCKETS

        for name in ("availability", "first_token"):
            if not 0 < getattr(self, name) < 1:
                raise LorikeetError(
                    f"{name} is a share between 0 and 1, without them (got {getattr(self, name)})"
                )
        if self.first_token_seconds not in TTFT_BUCKETS:
            raise LorikeetError(
                f"requests within {self.first_token_seconds:g} s are not counted",
                remedy=f"take one of {', '.join(f'{bound:g}' for bound in TTFT_BUCKETS)}",
            )


@dataclass(frozen=True)
class Indicator:
    """What is counted as bad: the name of its recorded series."""

    name: str

    def burn(self, window: str) -> str:
        """How many times faster than allowed the budget was spent over `window`."""
        return f"lorikeet:{self.name}:burn_rate{window}"


FAILED = Indicator("requests_failed")
SLOW = Indicator("first_token_slow")


@dataclass(frozen=True)
class _Burn:
    """Told when both windows spend `rate` times what is allowed."""

    severity: str
    long: str
    short: str
    rate: float
    held: str
    spent: str


_BURNS = (
    _Burn("page", "1h", "5m", 14.4, "2m", "2 % of the month's budget in an hour"),
    _Burn("page", "6h", "30m", 6, "15m", "5 % of the month's budget in six hours"),
    _Burn("ticket", "1d", "2h", 3, "1h", "10 % of the month's budget in a day"),
    _Burn("ticket", "3d", "6h", 1, "3h", "a tenth of the month's budget in three days"),
)
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")


def objective_groups(objectives: Objectives) -> tuple[Group, ...]:
    """The recording rules, and the alerts on them."""
    bound = f'le="{float(objectives.first_token_seconds)!r}"'
    recorded: list[Recorded] = []
    for window in WINDOWS:
        recorded += [
            Recorded(
                FAILED.burn(window),
                f"{_failed(window)}\n/ {_requests(window)}\n/ {1 - objectives.availability:.10g}",
            ),
            Recorded(
                SLOW.burn(window),
                f"(1 - {_within(bound, window)}\n / {_answered(window)})"
                f"\n/ {1 - objectives.first_token:.10g}",
            ),
        ]
    alerts = []
    for burn in _BURNS:
        alerts += [_availability(burn, objectives), _first_token(burn, objectives, bound)]
    return (
        Group("lorikeet-objectives", recorded),
        Group("lorikeet-error-budgets", alerts),
    )


def _availability(burn: _Burn, objectives: Objectives) -> Alert:
    return _alert(
        "LorikeetErrorBudgetBurn",
        burn,
        FAILED,
        _failed(burn.long, "increase"),
        summary=f"{{{{ $labels.job }}}}: failed requests have spent {burn.spent}",
        felt=f"requests are answered with 5xx more than the {1 - objectives.availability:.2%} that "
        "are allowed; streams break off with an error.",
        look="dashboard Lorikeet service: which status, which endpoint, is the engine up; "
        "dashboard Lorikeet adapters: is it one model alone.",
        do="one model: roll its alias back (`lorikeet adapters rollback NAME`). All models: see "
        "LorikeetEngineDown and LorikeetQueueFull.",
    )


def _first_token(burn: _Burn, objectives: Objectives, bound: str) -> Alert:
    return _alert(
        "LorikeetFirstTokenBudgetBurn",
        burn,
        SLOW,
        f"({_answered(burn.long, 'increase')} - {_within(bound, burn.long, 'increase')})",
        summary=f"{{{{ $labels.job }}}}: slow first tokens have spent {burn.spent}",
        felt=f"more than {1 - objectives.first_token:.0%} of the requests wait over "
        f"{objectives.first_token_seconds:g} s for their first token.",
        look="dashboard Lorikeet service, Latency and Time in the queue: waiting for a turn, or a "
        "slow engine; dashboard Lorikeet adapters, Warm and cold.",
        do="a long queue: add a server or lower the noisiest keys' limits (`lorikeet keys limit`). "
        "Cold loads: raise --max-loaded or --max-loras. A full KV cache: give it more memory.",
    )


def _alert(name: str, burn: _Burn, indicator: Indicator, bad: str, **texts: str) -> Alert:
    return Alert(
        name,
        "page" if burn.severity == "page" else "ticket",
        (
            Condition(indicator.burn(burn.long), ">", burn.rate),
            Condition(indicator.burn(burn.short), ">", burn.rate),
            Condition(bad, ">=", FEWEST),
        ),
        burn.held,
        labels=(("window", burn.long),),
        **texts,
    )


def _requests(window: str) -> str:
    return f"sum by (job) (rate({RESPONSES}{{{COUNTED}}}[{window}]))"


def _failed(window: str, function: str = "rate") -> str:
    return f"sum by (job) ({function}({RESPONSES}{{{FAILURES}}}[{window}]))"


def _answered(window: str, function: str = "rate") -> str:
    return f"sum by (job) ({function}({FIRST_TOKEN}_count[{window}]))"


def _within(bound: str, window: str, function: str = "rate") -> str:
    return f"sum by (job) ({function}({FIRST_TOKEN}_bucket{{{bound}}}[{window}]))"
