"""What EngineCore imports, imported once in the process that it is forked off."""

import os
from importlib import import_module

import setproctitle  # before vLLM, which changes the environment: it could find no title after

from serve import logs

logs.for_the_engine(os.environ)

current_platform = import_module("vllm.platforms").current_platform
for module in (
    "vllm.v1.engine.core",
    "vllm.v1.executor.uniproc_executor",
    f"vllm.v1.worker.{'cpu' if current_platform.is_cpu() else 'gpu'}_worker",
    "vllm.model_executor.models.llama",
    "serve.engine.worker",
):
    import_module(module)
setproctitle.setproctitle("lorikeet: engine starter")
