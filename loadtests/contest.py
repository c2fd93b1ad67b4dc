"""Which server is started when, and what is measured on each: one at a time, in a fixed order."""

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from loadtests.data_folder import DataFolder
from loadtests.results import Results
from loadtests.scope import Scope
from loadtests.servers import (
    OURS,
    STOCK,
    Capacity,
    ServerPlan,
    bound_plan,
    lorikeet_plan,
    stock_plan,
)
from loadtests.session import Session
from loadtests.starts import ADAPTERS, OURS_MANY, measure_start
from loadtests.training import TrainingContest
from registry import Base, LorikeetError
from serve.child import running

SERVERS = ("stock", "bound", "ours")
SECTIONS = ("throughput", "zipf", "start", "cold", "churn", "scale", "cpu", "fairness", "training")
TENANTS = ("noisy", "quiet")


@dataclass(frozen=True)
class Contest:
    """Measures `sections` of `servers` and adds what it finds to `results`.

    A section that fails is noted in `results.problems`, and the next one goes on.
    """

    base: Base
    capacity: Capacity
    scope: Scope
    servers: Collection[str]
    sections: Collection[str]
    folder: Path
    """For the adapters: 20 MB for each of the default base, 3 GB in all."""
    output: Path
    """For the logs and the records."""
    results: Results
    say: Callable[[str], None]
    """Told what is being done."""
    save: Callable[[], None]
    """Called whenever a section has ended."""
    cpu: bool
    """Whether the engines compute on the CPU."""

    def run(self) -> None:
        """Every server, one after the other."""
        home = self._data_folder("home")
        if self._wanted("throughput", "zipf", "cpu", "fairness", "cold", "churn"):
            self.say(f"publishing {len(self.scope.names)} adapters")
            adapters = home.publish(self.scope.names, rank=self.capacity.max_lora_rank)
            self._compare(home, adapters)
        if self._wanted("start", "scale"):
            self._start()
        if self._wanted("training"):
            self._train()

    def _compare(self, home: DataFolder, adapters: dict[str, Path]) -> None:
        """What is measured on servers that run."""
        stock = self._stock(adapters)
        ours = self._ours(OURS, home)
        if "stock" in self.servers:
            self._stay(stock, ("throughput", "zipf", "cpu", "fairness"))
        if "bound" in self.servers and self.cpu:
            self._stay(bound_plan(stock, os.sched_getaffinity(0)), ("throughput",))
        if "ours" in self.servers:
            if self._wanted("cold", "churn"):
                cold = self.scope.cold_names
                self.say(f"publishing {len(cold)} more adapters")
                home.publish_alike(cold, rank=self.capacity.max_lora_rank)
            self._stay(ours, ("throughput", "zipf", "cpu", "cold"))
            if self._wanted("churn", "fairness"):  # last: from the first key on, one is needed
                keys = {tenant: home.key(tenant) for tenant in TENANTS}
                keys["admin"] = home.key("admin", admin=True)
                self._stay(ours, ("fairness", "churn"), keys)

    def _stay(
        self, plan: ServerPlan, sections: Sequence[str], keys: dict[str, str] | None = None
    ) -> None:
        """Start a server, measure those of `sections` that are wanted, and stop it."""
        wanted = self._wanted(*sections)
        if not wanted:
            return
        self._note(plan)
        folder = self.output / _label(plan.name)
        folder.mkdir(exist_ok=True)
        say = self._say_of(plan.name)
        say("starting")
        with (
            self._forgiving(f"{plan.name} ({', '.join(wanted)})"),
            running(
                plan.command,
                folder / f"server-{wanted[0]}.log",
                ready_path=plan.ready_path,
                env=plan.environment,
            ) as child,
        ):
            session = Session(
                plan.name, child, self.base.id, self.scope, self.results, folder, say, keys or {}
            )
            for section in wanted:
                with self._forgiving(f"{plan.name}, {section}"):
                    session.sections[section]()
            say("stopping")

    def _start(self) -> None:
        """Starts of stock and ours with no adapter, and of ours with many, in turns."""
        plans = []
        if "stock" in self.servers and self._wanted("start"):
            plans.append(self._stock({}))
        if "ours" in self.servers:
            plans.append(self._ours(OURS, self._data_folder("empty")))
            if self._wanted("scale"):
                many = self._data_folder("many")
                self.say(f"publishing {ADAPTERS:,} small adapters")
                names = [f"tiny-{number}" for number in range(ADAPTERS)]
                many.publish_alike(names, rank=1, modules=1)
                plans.append(self._ours(OURS_MANY, many))
        for number in range(self.scope.starts):
            for plan in plans:
                self._note(plan)
                self._say_of(plan.name)(f"start {number + 1} of {self.scope.starts}")
                log = self.output / f"{_label(plan.name)}-start.log"
                with self._forgiving(f"{plan.name}, start"):
                    lists_pages = plan.name == OURS_MANY
                    start = measure_start(plan, log, pages=lists_pages)
                    self.results.starts.append(start)
                    self._say_of(plan.name)(f"ready after {start.seconds:.1f} s")

    def _train(self) -> None:
        """No server runs meanwhile, and none is compared."""
        with self._forgiving("training"):
            self.results.trainings += TrainingContest(
                base=self.base.path,
                rows=self.scope.training_rows,
                held_out_rows=self.scope.held_out_rows,
                epochs=self.scope.training_epochs,
                folder=self.folder / "training",
                output=self.output,
                say=self.say,
            ).run()

    @contextmanager
    def _forgiving(self, what: str) -> Iterator[None]:
        """Note a failure and go on; save what there is in either case."""
        try:
            yield
        except (LorikeetError, httpx.HTTPError) as error:
            self.results.problems.append(f"{what}: {error}")
        finally:
            self.save()

    def _stock(self, adapters: dict[str, Path]) -> ServerPlan:
        return stock_plan(
            STOCK, self.base.path, self.base.id, adapters, self.capacity, cpu=self.cpu
        )

    def _ours(self, name: str, home: DataFolder) -> ServerPlan:
        """One cache for every data folder: where a start finds it warm, stock's does too."""
        plan = lorikeet_plan(name, self.base.path, home.path, self.capacity)
        cache = {"VLLM_CACHE_ROOT": str(self.folder / "cache")}
        return replace(plan, environment={**plan.environment, **cache})

    def _data_folder(self, name: str) -> DataFolder:
        return DataFolder(self.folder / name, self.base)

    def _wanted(self, *sections: str) -> list[str]:
        return [section for section in sections if section in self.sections]

    def _note(self, plan: ServerPlan) -> None:
        started = {"command": plan.command, "environment": dict(plan.environment)}
        self.results.servers[plan.name] = started

    def _say_of(self, server: str) -> Callable[[str], None]:
        return lambda what: self.say(f"{server}: {what}")


def _label(name: str) -> str:
    return "".join(letter for letter in name.lower().replace(" ", "-") if letter not in ",")
