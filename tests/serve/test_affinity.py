"""Where an adapter's requests go, as pure arithmetic."""

from collections import Counter

from serve.affinity import adapter_of, preference, ranked

ADAPTERS = [f"adapter-{number}" for number in range(1000)]
FOUR = ["0", "1", "2", "3"]


def idle(replicas: list[str]) -> dict[str, int]:
    return dict.fromkeys(replicas, 0)


def test_versions_and_aliases_go_where_their_adapter_goes() -> None:
    assert {adapter_of(name) for name in ("opl", "opl@3", "opl@prod")} == {"opl"}
    assert adapter_of("ft:base:acme:support:x7k2") == "ft:base:acme:support:x7k2"


def test_each_replica_is_first_for_its_share() -> None:
    first = Counter(ranked(adapter, idle(FOUR), 8)[0] for adapter in ADAPTERS)
    assert all(200 < first[replica] < 300 for replica in FOUR)


def test_a_replica_that_comes_or_goes_moves_only_its_own_adapters() -> None:
    for adapter in ADAPTERS:
        before, after = preference(adapter, FOUR), preference(adapter, FOUR[:3])
        assert [replica for replica in before if replica != "3"] == after


def test_a_busy_replica_spills_to_the_next_of_the_adapter_s_order() -> None:
    home, following, *_ = preference("hot", FOUR)
    assert ranked("hot", idle(FOUR) | {home: 7}, 8)[0] == home
    assert ranked("hot", idle(FOUR) | {home: 8}, 8)[0] == following
    assert ranked("hot", idle(FOUR) | {home: 8, following: 8}, 8)[0] not in (home, following)


def test_where_all_are_busy_none_gets_a_quarter_more_than_the_mean() -> None:
    loads = idle(FOUR)
    for _ in range(400):
        loads[ranked("hot", loads, 8)[0]] += 1
    assert max(loads.values()) <= 1.25 * 101
    assert sum(loads.values()) == 400


def test_the_base_goes_to_the_least_loaded() -> None:
    assert ranked(None, {"0": 3, "1": 1, "2": 2}, 8) == ["1", "2", "0"]


def test_every_replica_is_in_the_order_once() -> None:
    assert sorted(ranked("a", {"0": 90, "1": 1, "2": 0, "3": 50}, 4)) == FOUR
