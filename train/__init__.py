"""Instruction data in, a checked adapter version out.

    from train.run import TrainRequest, run
    run(TrainRequest(data=Path("rows.jsonl"), name="support"))

or, from a shell, `lorikeet train --data rows.jsonl --name support`.
"""
