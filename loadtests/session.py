"""What is measured on one server while it runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path

from loadtests.api_cpu import measure_load
from loadtests.chat import connect
from loadtests.churn import ALONE, COLD, LOADS, WARM, measure_phase, unload
from loadtests.fairness import Tenant, measure_quiet, measure_shares
from loadtests.first_token import measure_pairs
from loadtests.results import Results
from loadtests.scope import Scope
from loadtests.servers import OURS
from loadtests.swarm import Crowd
from loadtests.throughput import BASE, MANY, ONE, ZIPF, take_turn
from registry import LorikeetError
from serve.child import Child

NOISY_USERS = 64
SHARING_USERS = 96, 40
"""Each more than all of the 32 seats: answers end in waves, and both tenants are to have requests
that wait at each."""
SHARING_ADAPTERS = 6
"""Of the tenant with more users; the other one asks a single adapter."""
SHARING_TOKENS = 16
"""Short answers, so that seats change hands often while it is measured."""
CPU_TOKENS = 1, 256
"""Lengths of the answers in the two loads."""
WARM_ADAPTERS = 4
"""Loaded adapters beside cold ones: few enough to keep their slots."""


@dataclass(frozen=True)
class Session:
    """Each method measures one section and adds what it found to `results`."""

    server: str
    child: Child
    base: str
    scope: Scope
    results: Results
    folder: Path
    """Where the answers are recorded."""
    say: Callable[[str], None]
    """Told what is being done."""
    keys: dict[str, str] = field(default_factory=dict)
    """API keys by tenant, where the server asks for one."""

    @property
    def sections(self) -> dict[str, Callable[[], None]]:
        """The methods that measure, by the name of what they measure."""
        return {
            "throughput": self.throughput,
            "zipf": self.zipf,
            "cpu": self.cpu,
            "cold": self.cold,
            "churn": self.churn,
            "fairness": self.fairness,
        }

    def throughput(self) -> None:
        """Base traffic, one adapter, and as many adapters as there are slots, in turns."""
        names = self.scope.names[: self.scope.slots]
        self._warm_up([self.base, *names])
        traffic = {
            BASE: ["--base-model", self.base],
            ONE: ["--adapters", names[0]],
            MANY: ["--adapters", ",".join(names), "--pinned"],
        }
        for number in range(1, self.scope.rounds + 1):
            for kind, models in traffic.items():
                self._turn(kind, models, number)

    def zipf(self) -> None:
        """Four times as many adapters as slots, asked as Zipf says."""
        self._warm_up(self.scope.names)
        for number in range(1, self.scope.rounds + 1):
            self._turn(ZIPF, ["--adapters", ",".join(self.scope.names)], number)

    def cpu(self) -> None:
        """Short answers, then long ones, of the base."""
        self._warm_up([self.base])
        for tokens in CPU_TOKENS:
            self.say(f"CPU time, answers of {tokens} tokens")
            crowd = Crowd(self.scope.users, self.scope.seconds, max_tokens=tokens)
            records = self.folder / f"cpu-{tokens}.jsonl"
            spent = measure_load(
                self.server, self.child, ["--base-model", self.base], crowd, records
            )
            self.results.loads.append(spent)

    def cold(self) -> None:
        """First tokens of cold adapters, each beside a warm one's."""
        warm = self.scope.names[:WARM_ADAPTERS]
        self._warm_up(warm)
        self.say("first tokens of cold adapters")
        with connect(self.child.url) as client:
            cold = self.scope.cold_names[: self.scope.pairs]
            self.results.pairs += measure_pairs(client, cold, warm)

    def churn(self) -> None:
        """A steady stream alone, beside loads, and beside short requests, in turns."""
        stream, *warm = self.scope.names[: 1 + WARM_ADAPTERS]
        loads, cold = self.scope.cold_loads, self.scope.cold_names[self.scope.pairs :]
        again = list(islice(cycle(warm), loads))
        for number in range(self.scope.cold_rounds):
            key = self.keys["admin"]
            self._warm_up([stream, *warm], key)  # the round before has taken their slots
            mine = cold[number * loads : (number + 1) * loads]
            beside = {ALONE: again, LOADS: mine, WARM: again, COLD: mine}  # ALONE asks none
            for what, models in beside.items():
                self.say(f"a steady stream beside {what}, round {number + 1}")
                phase = measure_phase(self.child.url, stream, what, models, key)
                self.results.phases.append(phase)
                if what == LOADS:
                    unload(self.child.url, mine, key)

    def fairness(self) -> None:
        """A quiet tenant beside a noisy one; on ours also two busy ones."""
        quiet, *others = self.scope.names[: self.scope.slots + 1]
        self._warm_up([quiet, *others], self.keys.get("noisy", ""))
        self.say("a quiet tenant beside a noisy one")
        found = measure_quiet(
            self.server,
            self.child.url,
            self._tenant("noisy", NOISY_USERS, others, seed=1),
            self._tenant("quiet", 1, [quiet], seed=2, max_tokens=8, think_seconds=0.5),
            self.folder,
        )
        self.results.quiets.append(found)
        if self.server == OURS:
            self.say("two busy tenants")
            many, few = SHARING_USERS
            adapters = others[:SHARING_ADAPTERS]
            first = self._tenant("noisy", many, adapters, seed=3, max_tokens=SHARING_TOKENS)
            second = self._tenant("quiet", few, [quiet], seed=4, max_tokens=SHARING_TOKENS)
            shared = measure_shares(self.server, self.child.url, first, second, self.folder)
            self.results.shares.append(shared)

    def _warm_up(self, models: Sequence[str], api_key: str = "") -> None:
        """Load every adapter and run each kind of step once."""
        message = {"role": "user", "content": "Say something about the weather."}
        body = {"messages": [message], "max_tokens": 8, "ignore_eos": True}
        self.say(f"warming up {len(models)} models")
        with connect(self.child.url, api_key) as client:
            for model in models:
                answer = client.post("/v1/chat/completions", json=body | {"model": model})
                if answer.is_error:
                    raise LorikeetError(
                        f"{model} could not be asked: HTTP {answer.status_code} "
                        f"{answer.text[:200]}",
                        remedy="read the server's log in the output folder",
                    )

    def _turn(self, kind: str, models: list[str], number: int) -> None:
        self.say(f"{kind}, round {number} of {self.scope.rounds}")
        crowd = Crowd(self.scope.users, self.scope.seconds, self.scope.max_tokens)
        label = "".join(letter if letter.isalnum() else "-" for letter in kind)
        records = self.folder / f"{label}-{number}.jsonl"
        turn = take_turn(self.server, self.child.url, kind, models, crowd, records)
        self.results.turns.append(turn)
        figures = turn.figures
        self.say(f"{figures.tokens_per_second:.1f} tokens/s, TTFT {figures.ttft_median:.2f} s")

    def _tenant(
        self,
        name: str,
        users: int,
        adapters: Sequence[str],
        *,
        seed: int,
        max_tokens: int | None = None,
        think_seconds: float = 0.0,
    ) -> Tenant:
        crowd = Crowd(
            users,
            self.scope.seconds,
            max_tokens or self.scope.max_tokens,
            think_seconds=think_seconds,
            api_key=self.keys.get(name, ""),
            seed=seed,
        )
        return Tenant(crowd, ("--adapters", ",".join(adapters), "--pinned"))
