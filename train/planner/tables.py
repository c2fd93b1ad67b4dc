"""The planner's tables in the terminal."""

from typing import TYPE_CHECKING

from rich.table import Table

from train.planner.calculator import Calculator, as_printed
from train.planner.plan import Plan
from train.planner.serving import CHAT_TOKENS, UTILISATION
from train.planner.several import ADAPTERS

if TYPE_CHECKING:
    from rich.console import Console

_OPTIMISERS = {
    "adamw": "32-bit",
    "adamw_8bit": "8-bit",
    "paged_adamw_8bit": "8-bit, paged",
}
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def size(count: float) -> str:
    """Bytes in units of 1024, with three digits or so."""
    unit = 0
    while abs(count) >= 1024 and unit < len(_UNITS) - 1:
        count /= 1024
        unit += 1
    digits = 0 if unit == 0 or count >= 100 else 1 if count >= 10 else 2
    return f"{count:.{digits}f} {_UNITS[unit]}"


def show(console: "Console", name: str, plan: Plan) -> None:
    """Print all of `plan` for the model called `name`."""
    _model(console, name, plan)
    _weights(console, plan)
    _training(console, plan)
    _serving(console, plan)
    if plan.several.gpus > 1:
        _several(console, plan)
    _calculator(console, plan)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    return table


def _say(console: "Console", text: str) -> None:
    console.print(text, highlight=False, markup=False, style="dim")


def _model(console: "Console", name: str, plan: Plan) -> None:
    model = plan.model
    active = ""
    if model.active_parameters != model.parameters:
        active = f", {model.active_parameters / 1e9:.2f} B of them for a token"
    count = model.parameters
    counted = f"{count / 1e9:.2f} B" if count >= 1e9 else f"{count / 1e6:.1f} M"
    console.print(f"{name}: {counted} parameters{active}", highlight=False, style="bold")
    _say(
        console,
        f"{model.model_type}, {len(model.layers)} layers of width {model.hidden}, {model.heads} "
        f"attention heads over {model.kv_heads} of keys and values, vocabulary "
        f"{model.vocabulary:,}" + (", tied embeddings" if model.tied else ""),
    )


def _weights(console: "Console", plan: Plan) -> None:
    console.print()
    table = _table(
        "The weights, and what training adds to them",
        "weights in",
        *("largest layer", "all", "gradients", "backward", "optimiser"),
    )
    for row in plan.formats():
        sizes = (row.largest_layer, row.total, row.gradients, row.backward, row.optimizer)
        table.add_row(row.name, *map(size, sizes))
    console.print(table)
    _say(
        console,
        "float32 and 16 bits: all weights are trained (16 bits: with float32 copies). int8, int4 "
        "and NF4 (with double quantisation) as bitsandbytes holds them: an adapter of rank "
        f"{plan.serving.rank} is. Backward: weights and gradients, activations not counted.",
    )


def _training(console: "Console", plan: Plan) -> None:
    console.print()
    batch = plan.methods[0].workload.batch
    table = _table(
        f"Training, {batch.rows} × {batch.length} tokens at a time, {batch.trained} of a row in "
        "the loss",
        "memory for",
        *(method.name for method in plan.methods),
    )
    rows = {
        "base": "weights",
        "adapter": "adapter",
        "gradients": "gradients",
        "optimiser": "optimizer",
        "activations": "activations",
        "backward pass": "temporary",
        "program, libraries": "process",
    }
    memories = [method.memory.as_dict() for method in plan.methods]
    for title, key in rows.items():
        table.add_row(title, *(size(memory[key]) for memory in memories))
    table.add_section()
    table.add_row("peak", *(size(memory["total"]) for memory in memories), style="bold")
    fits = []
    for method in plan.methods:
        if method.workload.device == "cpu":
            fits.append("RAM")
        else:
            fits.append(f"{method.card} GB" if method.card else "none")
    table.add_row("fits on", *fits)
    table.add_row("AdamW is", *(_OPTIMISERS[method.workload.optimizer] for method in plan.methods))
    table.add_row(
        "activations are",
        *("recomputed" if method.workload.recomputes else "kept" for method in plan.methods),
    )
    console.print(table)
    _say(
        console,
        "LoRA: a 16-bit base, QLoRA: one in NF4 with double quantisation, both with an adapter of "
        f"rank {plan.serving.rank}. GPU: bfloat16; CPU: float32.",
    )
    if any(layer.experts for layer in plan.model.layers):
        _say(
            console,
            "Experts stay in 16 bits and without adapters: transformers holds them in one tensor "
            "a layer, which bitsandbytes does not quantise.",
        )


def _serving(console: "Console", plan: Plan) -> None:
    console.print()
    serving = plan.serving
    spread = serving.spread
    each = f", on each of {spread.gpus} GPUs" if spread.gpus > 1 else ""
    table = _table(f"Serving: what one more takes{each}", "one", "memory")
    table.add_row("token of a chat (keys and values)", size(serving.kv_token))
    table.add_row(f"chat of {CHAT_TOKENS:,} tokens", size(serving.kv_chat()))
    table.add_row(f"slot for an adapter, of rank {serving.slot_rank} or less", size(serving.slot))
    table.add_row(f"adapter of rank {serving.rank}, on the disk", size(serving.adapter_file))
    console.print(table)
    console.print()
    cards = plan.served()
    table = _table(
        f"Serving: chats of {CHAT_TOKENS:,} tokens at the same time, by adapters in use",
        f"{spread.gpus} cards, weights on each" if each else "card, weights",
        *(str(fit.slots) for fit in cards[0].fits),
        "most adapters",
    )
    for card in cards:
        form = "16-bit" if card.quantization == "none" else "NF4"
        table.add_row(
            f"{card.card} GB, {form} ({size(card.weights)})",
            *("–" if fit.chats is None else f"{fit.chats:,}" for fit in card.fits),
            f"{card.most_slots:,}",
        )
    console.print(table)
    _say(
        console,
        f"The engine takes {UTILISATION:.0%} of a card, {size(serving.reserve)} of that to compute "
        "with. Adapters here are those in use at one moment (--max-loras, at most 512); others "
        "wait in main memory. Most adapters: with room for one chat.",
    )


def _several(console: "Console", plan: Plan) -> None:
    console.print()
    several = plan.several
    table = _table(
        f"Serving on 1 to {several.gpus} GPUs: chats beside {ADAPTERS} adapters, by GPUs",
        "card, weights",
        *map(str, several.sizes),
        "fewest",
    )
    for row in several.rows(plan.cards):
        form = "16-bit" if row.quantization == "none" else "NF4"
        table.add_row(
            f"{row.card} GB, {form}",
            *("–" if chats is None else f"{chats:,}" for chats in row.chats),
            "none" if row.fewest is None else str(row.fewest),
        )
    console.print(table)
    stages = several.serving.spread.pipeline
    _say(
        console,
        "Each layer is cut over the GPUs (--tensor-parallel-size)"
        + (f", in {stages} stages (--pipeline-parallel-size)" if stages > 1 else "")
        + "; numbers that are left out do not divide heads, MLP and vocabulary. Training: QLoRA on "
        f"{several.gpus} GPUs has the base in shards (FSDP), and the rows above on each GPU.",
    )


def _calculator(console: "Console", plan: Plan) -> None:
    columns = ("model", "gradients", "backward", "step")
    ages = {"": Calculator(plan.model, True), ", today": Calculator(plan.model, False)}
    console.print()
    table = _table(
        "As Hugging Face's calculator",
        *("weights in", "largest layer", "total", "training with Adam"),
    )
    for age, calculator in ages.items():
        for row in calculator.inference():
            sizes = (row.largest_layer, row.total, row.adam)
            table.add_row(row.dtype + age, *map(as_printed, sizes))
    console.print(table)
    console.print()
    table = _table("Its peaks of a step, batch of 1", "arithmetic in", *columns)
    for age, calculator in ages.items():
        for step in calculator.training():
            peaks = (step.model, step.gradients, step.backward, step.step)
            table.add_row(step.dtype + age, *map(as_printed, peaks))
    console.print(table)
    _say(
        console,
        "It leaves out the output head, activations and adapters, and divides float32 by 2, 4 and "
        "8; its MB and GB are of 1,024. The first lines count what transformers once had: cosines "
        f"and sines of all {plan.model.positions:,} positions, in float32, in every layer. Today's "
        "are computed when needed.",
    )
