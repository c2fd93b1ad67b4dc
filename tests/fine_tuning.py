"""Types of the fixtures that send files and make jobs, and a row to train on."""

from collections.abc import Callable

from registry.finetuning.objects import File, Job

ROW = (
    b'{"messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]}\n'
)
SendFile = Callable[..., File]
"""`send_file("acme", content=…, purpose=…, filename=…)` keeps a file."""
MakeJob = Callable[..., Job]
"""`make_job("acme", suffix=…, lorikeet={…})` makes a job, on a file of its own."""
