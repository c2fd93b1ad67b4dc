"""The JSON holds every turn and verdict, whole at any time."""

import json
import math
from pathlib import Path

from loadtests.fairness import Shares
from loadtests.first_token import Pair
from loadtests.results import Results
from loadtests.servers import OURS
from loadtests.throughput import BASE, ONE, Figures, Turn
from loadtests.training import PLAIN, TrainingRun


def test_what_was_measured_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    results = Results({"machine": {"cores": 2}})
    results.write(path)
    assert json.loads(path.read_text())["verdicts"] == []

    results.turns += [
        Turn(OURS, BASE, Figures(10, 0, 80.0, 1.0, 2.0, math.nan)),
        Turn(OURS, ONE, Figures(10, 0, 72.0, 1.0, 2.0, 0.05)),
    ]
    results.pairs.append(Pair(0.2, 0.1))
    results.shares.append(Shares(OURS, 50.0, 50.0, 0))
    results.trainings += [
        TrainingRun(PLAIN, 96, 300, 8000, 40.0, 50.0, 80.0, 1000.0, 0.5, 3.0),
        TrainingRun(OURS, 96, 300, 8000, 20.0, 30.0, 50.0, 900.0, 0.4, 3.0),
    ]
    results.problems.append("stock vLLM, zipf: Locust ended")
    results.write(path)
    document = json.loads(path.read_text())
    assert document["machine"] == {"cores": 2}
    assert document["turns"][0]["figures"]["tokens_per_second"] == 80.0
    assert document["turns"][0]["figures"]["itl_median"] is None
    assert [row["of_base"] for row in document["rows"]] == [1.0, 0.9]
    assert document["pairs"] == [{"cold": 0.2, "warm": 0.1}]
    assert document["problems"] == ["stock vLLM, zipf: Locust ended"]
    kept = {verdict["promise"]: verdict["kept"] for verdict in document["verdicts"]}
    assert kept["Lorikeet: first token of a cold adapter, of a warm one's"] is False
    assert kept["Lorikeet: two busy tenants, distance of their shares from 50:50"] is True
    assert kept["training: trained tokens/s of plain SFTTrainer's"] is True
    assert document["trainings"][1]["held_out_loss"] == 0.4
    assert len(list(results.tables())) == 4
    assert [file.name for file in tmp_path.iterdir()] == ["bench.json"]
