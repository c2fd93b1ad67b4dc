"""QLoRA as the tutorials have it: SFTTrainer on rows rendered to text, TRL's defaults otherwise.

    python -m loadtests.plain_sft --base ./model --data rows.jsonl --output out --epochs 1 \
      --batch-size 16 --learning-rate 1.5e-3 --rank 16 --seed 42 [--float32-adapter]

What `lorikeet train` is measured against. It uses nothing of Lorikeet. TRL makes the adapter of a
quantised base bfloat16; `--float32-adapter` undoes that, for CPUs that are slow at it.
"""

import argparse
import json
import time
from pathlib import Path


def main() -> None:
    """Train, write the adapter and `result.json` with the seconds of training into `--output`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--epochs", required=True, type=float)
    parser.add_argument("--batch-size", required=True, type=int)
    parser.add_argument("--learning-rate", required=True, type=float)
    parser.add_argument("--rank", required=True, type=int)
    parser.add_argument("--seed", required=True, type=int)
    parser.add_argument("--float32-adapter", action="store_true")
    options = parser.parse_args()

    import torch
    from datasets import Dataset, load_dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
    from trl import SFTConfig, SFTTrainer

    cuda = torch.cuda.is_available()
    dtype = torch.bfloat16 if cuda else torch.float32
    tokenizer = AutoTokenizer.from_pretrained(options.base)

    def as_text(row: dict[str, object]) -> dict[str, object]:
        if "text" in row:
            return {"text": row["text"]}
        return {"text": tokenizer.apply_chat_template(row["messages"], tokenize=False)}

    rows = load_dataset("json", data_files=options.data, split="train")
    dataset: Dataset = rows.map(as_text, remove_columns=rows.column_names)
    model = AutoModelForCausalLM.from_pretrained(
        options.base,
        dtype=dtype,
        device_map={"": 0 if cuda else "cpu"},
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        ),
    )
    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=dataset,
        peft_config=LoraConfig(
            task_type="CAUSAL_LM",
            r=options.rank,
            lora_alpha=2 * options.rank,
            target_modules="all-linear",
        ),
        args=SFTConfig(
            output_dir=str(options.output / "checkpoints"),
            num_train_epochs=options.epochs,
            per_device_train_batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            seed=options.seed,
            bf16=cuda,
            use_cpu=not cuda,
            report_to="none",
        ),
    )
    if options.float32_adapter:
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    begin = time.monotonic()
    trainer.train()
    seconds = time.monotonic() - begin
    trainer.save_model(str(options.output / "adapter"))
    (options.output / "result.json").write_text(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main()
