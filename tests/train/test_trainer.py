"""The real thing, small: NF4 by bitsandbytes, LoRA by PEFT, SFTTrainer, a tiny Llama."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from registry import Base, DiskFull, RegistrySettings, UnknownAdapter, resolve_base
from train import base_model, trackers, trainer
from train.answer_trainer import Schedule, _config, optimiser
from train.batches import (
    Collator,
    LengthOrder,
    answer_logits,
    answer_loss,
    answers_right,
    can_share_prefix,
    prefix_length,
)
from train.data.chat import Chat, Message
from train.data.masking import IGNORED, ChatEncoder, Encoded
from train.errors import LossNotFinite, OutOfMemory, SettingsError, TrainingFailed
from train.evaluation.generation import greedy_answers, mean_loss, mean_of, row_losses
from train.hardware import Hardware
from train.libraries import library_errors
from train.processes import Processes
from train.progress import Step
from train.settings import TrainSettings

CPU = Hardware("cpu", "test", "float32", threads=1)
ALONE = Processes()
QUICK = TrainSettings(
    epochs=3, batch_size=4, learning_rate=2e-2, rank=4, scheduler="constant", warmup=0.0
)
COLOURS = {"sky": "blue", "grass": "green", "snow": "white", "coal": "black"}


@pytest.fixture(scope="module")
def base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Base:
    """The tiny base as the registry knows it."""
    return resolve_base(tiny_base, RegistrySettings(home=tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="module")
def tokenizer(base: Base) -> Any:
    """The tiny base's tokenizer."""
    return base_model.load_tokenizer(base)


@pytest.fixture(scope="module")
def rows(tokenizer: Any) -> list[Encoded]:
    """Eight rows of two wordings: what colour something is."""
    encoder = ChatEncoder(tokenizer, "tiny")
    chats = [
        Chat(1, (Message("user", question.format(thing)), Message("assistant", colour)))
        for question in ("What colour is {}?", "Which colour does {} have, please?")
        for thing, colour in COLOURS.items()
    ]
    return [encoded for chat in chats for encoded in encoder.encode(chat)]


@pytest.fixture(scope="module")
def model(base: Base) -> Any:
    """The tiny base, in full precision."""
    return base_model.load_base(base, TrainSettings(quantization="none"), CPU)


def test_a_batch_with_a_shared_prefix_gives_the_loss_and_gradients_of_each_row_alone(
    model: Any, rows: list[Encoded]
) -> None:
    weight = model.model.layers[0].self_attn.q_proj.weight
    assert can_share_prefix(model)
    assert prefix_length(rows) > 20
    losses, gradients = [], []
    for batches in ([[row] for row in rows], [rows]):
        model.zero_grad()
        total = torch.zeros(())
        for batch in batches:
            total = total + answer_loss(*answer_logits(model, Collator(2).collate(batch)))
        total.backward()
        losses.append(total.item())
        gradients.append(weight.grad.clone())
    reference = 0.0
    for row in rows:  # as the model's own forward has it, all positions, no padding
        ids, labels = torch.tensor([row.input_ids]), torch.tensor([row.labels])
        mean = model(input_ids=ids, labels=labels).loss
        reference += mean.item() * row.trained_tokens
    assert losses == pytest.approx([reference, reference], rel=1e-5)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_the_accuracy_is_the_share_of_trained_tokens_that_are_the_likeliest(
    model: Any, rows: list[Encoded]
) -> None:
    right = 0
    for row in rows:
        likeliest = model(input_ids=torch.tensor([row.input_ids])).logits[0].argmax(dim=-1)
        right += sum(
            label != IGNORED and int(token) == label
            for token, label in zip(likeliest[:-1], row.labels[1:], strict=True)
        )
    # One more, of what the model itself says: a random model is never right by chance.
    ids = list(rows[0].input_ids)
    ids[9] = int(model(input_ids=torch.tensor([ids[:9]])).logits[0, -1].argmax())
    said = Encoded(tuple(ids), (*([IGNORED] * 9), ids[9], *([IGNORED] * (len(ids) - 10))))
    losses = row_losses(model, [*rows, said], pad_id=2, batch_size=3)
    trained = sum(row.trained_tokens for row in rows) + 1
    assert mean_of(losses)[1] == pytest.approx((right + 1) / trained)
    assert losses[-1].right == losses[-1].tokens == 1
    logits, labels = answer_logits(model, Collator(2).collate([*rows, said]))
    assert answers_right(logits, labels) == right + 1


def test_the_prefix_stops_before_the_trained_tokens_and_is_dropped_when_short() -> None:
    row = Encoded(tuple(range(20)), (*([IGNORED] * 12), *range(12, 20)))
    assert prefix_length([row, row]) == 11
    assert prefix_length([row]) == 0
    other = Encoded((0, 1, 2, 9), (IGNORED, IGNORED, IGNORED, 9))
    assert prefix_length([row, other]) == 0


def test_answers_in_a_batch_are_those_of_each_prompt_alone(model: Any, tokenizer: Any) -> None:
    encoder = ChatEncoder(tokenizer, "tiny")
    prompts = [
        encoder.prompt_ids([Message("user", text)]) for text in ("a", "b c d", "e " * 30, "f g")
    ]
    arguments: dict[str, Any] = {"stop_ids": (2,), "pad_id": 2, "max_new_tokens": 6}
    together = greedy_answers(model, prompts, batch_size=3, **arguments)
    assert together == [
        greedy_answers(model, [prompt], batch_size=1, **arguments)[0] for prompt in prompts
    ]
    generated = model.generate(
        torch.tensor([prompts[2]]), do_sample=False, max_new_tokens=6, pad_token_id=2
    )
    assert together[2] == generated[0, len(prompts[2]) :].tolist()
    stopped = greedy_answers(
        model, prompts, batch_size=4, **{**arguments, "stop_ids": (together[1][2],)}
    )
    assert stopped[1] == together[1][: together[1].index(together[1][2])]
    assert greedy_answers(model, [], batch_size=4, **arguments) == []


def test_training_lowers_the_loss_and_one_seed_gives_one_adapter(
    base: Base, tokenizer: Any, rows: list[Encoded], tmp_path: Path
) -> None:
    written = []
    for run in range(2):
        steps: list[Step] = []
        model = base_model.load_base(base, QUICK, CPU)
        assert type(model.model.layers[0].mlp.up_proj).__name__ == "Linear4bit"
        trained = trainer.train_adapter(model, tokenizer, rows, QUICK, CPU, steps.append)
        assert (trained.steps, len(steps), len(trained.losses)) == (6, 6, 6)
        assert trained.losses[-1] < trained.losses[0] - 0.2
        assert trained.tokens == 3 * sum(len(row.input_ids) for row in rows)
        assert trained.trained_tokens == 3 * sum(row.trained_tokens for row in rows)
        assert [step.number for step in steps] == [1, 2, 3, 4, 5, 6]
        assert steps[-1].total == 6
        adapted = mean_loss(trained.model, rows, pad_id=2, batch_size=3)
        with trained.model.disable_adapter():
            assert mean_loss(trained.model, rows, pad_id=2, batch_size=8) > adapted + 0.2
        folder = tmp_path / str(run)
        folder.mkdir()
        trainer.save_adapter(trained.model, base, folder)
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert written[0] == written[1]
    assert set(written[0]) == {"adapter_config.json", "adapter_model.safetensors"}
    config = json.loads(written[0]["adapter_config.json"])
    assert config["base_model_name_or_path"] == base.id
    assert (config["r"], config["lora_alpha"]) == (4, 8)
    assert str(base.path) not in written[0]["adapter_config.json"].decode()


def test_accumulated_batches_make_the_step_of_one_large_batch(
    base: Base, tokenizer: Any, rows: list[Encoded]
) -> None:
    losses = []
    for batch_size in (8, 2):
        update = {"batch_size": batch_size, "gradient_accumulation": 8 // batch_size}
        settings = QUICK.model_copy(update={"quantization": "none", "epochs": 2, **update})
        model = base_model.load_base(base, settings, CPU)
        trained = trainer.train_adapter(model, tokenizer, rows, settings, CPU)
        assert trained.steps == 2
        losses.append(trained.losses)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("quantization", ["int8", "none"])
def test_the_other_quantisations_train_too(
    base: Base, tokenizer: Any, rows: list[Encoded], quantization: str
) -> None:
    settings = QUICK.model_copy(
        update={"quantization": quantization, "max_steps": 3, "gradient_checkpointing": True}
    )
    model = base_model.load_base(base, settings, CPU)
    trained = trainer.train_adapter(model, tokenizer, rows, settings, CPU)
    assert trained.losses[-1] < trained.losses[0]
    kind = {"int8": "Linear8bitLt", "none": "Linear"}[quantization]
    layer = trained.model.base_model.model.model.layers[0].mlp.up_proj.base_layer
    assert type(layer).__name__ == kind


def test_a_loss_that_is_not_finite_stops_the_run(
    base: Base, tokenizer: Any, rows: list[Encoded]
) -> None:
    settings = QUICK.model_copy(update={"quantization": "none"})
    model = base_model.load_base(base, settings, CPU)
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(LossNotFinite, match="step 1") as caught:
        trainer.train_adapter(model, tokenizer, rows, settings, CPU)
    assert caught.value.remedy is not None


def test_an_eight_bit_optimiser_trains_and_the_paged_one_needs_a_gpu(
    base: Base, tokenizer: Any, rows: list[Encoded]
) -> None:
    settings = QUICK.model_copy(update={"optimizer": "adamw_8bit"})
    model = base_model.load_base(base, settings, CPU)
    trained = trainer.train_adapter(model, tokenizer, rows, settings, CPU)
    assert trained.losses[-1] < trained.losses[0] - 0.2
    gpu = Hardware("cuda", "test", "bfloat16", threads=2)
    assert optimiser(QUICK, CPU, ALONE) == "adamw_torch"
    assert optimiser(QUICK, gpu, ALONE) == "paged_adamw_8bit"
    paged = QUICK.model_copy(update={"optimizer": "paged_adamw_8bit"})
    with pytest.raises(SettingsError, match="on a CPU set adamw or adamw_8bit"):
        optimiser(paged, CPU, ALONE)
    shards = Processes(count=2, sharded=True)
    assert optimiser(QUICK, gpu, shards) == "adamw_torch"
    with pytest.raises(SettingsError, match="FSDP cannot save"):
        optimiser(paged, gpu, shards)


def test_packed_rows_train_to_the_same_losses_as_rows_in_a_batch(
    base: Base, tokenizer: Any, rows: list[Encoded]
) -> None:
    losses = []
    for update in ({"batch_size": 8}, {"batch_size": 1, "packing": True, "max_length": 512}):
        settings = QUICK.model_copy(update={"quantization": "none", **update})
        model = base_model.load_base(base, settings, CPU)
        trained = trainer.train_adapter(model, tokenizer, rows, settings, CPU)
        assert trained.tokens == 3 * sum(len(row.input_ids) for row in rows)
        losses.append(trained.losses)
    assert len(losses[0]) == 3
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_the_order_of_an_epoch_is_its_own_and_needs_no_other_state() -> None:
    lengths = [5, 9, 1, 7, 3, 8, 2, 6]
    orders = []
    for epoch in (0, 1, 0):
        torch.rand(3)
        orders.append(list(LengthOrder(lengths, 2, seed=1, epoch=epoch)))
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == list(range(8))


@pytest.mark.parametrize(
    ("update", "saves", "schedule"),
    [
        ({}, True, Schedule(0.1, None)),
        ({}, False, Schedule(None, None)),
        ({"checkpoint_steps": 5, "held_out_steps": 2}, True, Schedule(5, 2)),
        ({"checkpoint_steps": 5, "early_stopping": 1}, True, Schedule(5, 5)),
        ({"checkpoint_steps": 5, "early_stopping": 1, "held_out_steps": 2}, True, Schedule(2, 2)),
        ({"early_stopping": 1}, False, Schedule(0.1, 0.1)),
    ],
)
def test_when_to_save_and_to_measure(
    update: dict[str, int], saves: bool, schedule: Schedule
) -> None:
    settings = QUICK.model_copy(update=update)
    assert Schedule.of(settings, saves=saves, has_held_out=True) == schedule
    assert Schedule.of(settings, saves=False, has_held_out=False) == Schedule(None, None)


def test_trackers_are_passed_on_and_a_missing_one_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = QUICK.model_copy(update={"report_to": ("trackio", "wandb")})
    schedule = Schedule(None, None)
    config = _config(settings, CPU, Processes(), schedule, tmp_path, recomputes=False)
    assert config.report_to == ["trackio", "wandb"]
    assert _config(QUICK, CPU, Processes(), schedule, tmp_path, recomputes=False).report_to == []
    monkeypatch.setattr(trackers, "find_spec", lambda name: None if name == "wandb" else object())
    with pytest.raises(SettingsError, match="pip install wandb") as caught:
        trackers.check_trackers(settings)
    assert len(caught.value.problems) == 1


def test_a_layer_that_the_base_does_not_have_is_a_settings_error(
    base: Base, tokenizer: Any, rows: list[Encoded], model: Any
) -> None:
    settings = QUICK.model_copy(update={"targets": ("q_proj", "query")})
    with pytest.raises(SettingsError, match="no layer query; it has down_proj, gate_proj"):
        trainer.resolve_targets(model, settings)
    assert trainer.resolve_targets(model, QUICK) == (
        "down_proj",
        "gate_proj",
        "k_proj",
        "o_proj",
        "q_proj",
        "up_proj",
        "v_proj",
    )


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), OutOfMemory),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), OutOfMemory),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), OutOfMemory),
        (OSError(errno.ENOSPC, "No space left on device"), DiskFull),
        (OSError(errno.EIO, "broken"), TrainingFailed),
        (ValueError("a " * 500), TrainingFailed),
        (ImportError("no bitsandbytes"), TrainingFailed),
        (AssertionError(), TrainingFailed),
    ],
)
def test_every_exception_of_a_library_is_mapped(error: Exception, kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught, library_errors("training"):
        raise error
    assert type(caught.value) is kind
    assert caught.value.__cause__ is error
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("error", [UnknownAdapter("x"), KeyboardInterrupt()])
def test_our_own_errors_and_interrupts_pass(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, library_errors("training"):
        raise error
    assert caught.value is error


def test_a_base_that_cannot_be_loaded_is_one_error(base: Base, tmp_path: Path) -> None:
    broken = Base("broken", tmp_path, base.digest, base.template_digest, base.tokenizer_digest)
    with pytest.raises(TrainingFailed, match="loading the tokenizer of broken failed"):
        base_model.load_tokenizer(broken)
    with pytest.raises(TrainingFailed, match="loading broken failed"):
        base_model.load_base(broken, QUICK, CPU)
