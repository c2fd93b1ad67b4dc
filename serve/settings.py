"""How the server runs. The only place in this package that reads the environment.

Every field is a flag of `lorikeet serve` (`--max-loras 16`) and an environment variable
(`LORIKEET_SERVE_MAX_LORAS=16`); the flag wins.
"""

import ipaddress
import re
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from registry import DEFAULT_BASE

MAX_PORT = 65535


class ServeSettings(BaseSettings):
    """Frozen; unknown keys are refused."""

    model_config = SettingsConfigDict(
        env_prefix="LORIKEET_SERVE_",
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        use_attribute_docstrings=True,
    )

    base: str = DEFAULT_BASE
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=MAX_PORT)
    insecure: bool = False
    """Serve without keys on an address that other machines reach."""
    engine: Literal["vllm", "echo"] = "vllm"
    """echo answers without a model, for tests."""

    quantization: Literal["none", "nf4"] = "none"
    """nf4 holds the base in 4 bits (bitsandbytes)."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: float32 on the CPU, bfloat16 on a GPU and for nf4."""
    max_model_len: int | None = Field(default=None, ge=16)
    """Prompt and answer in tokens; None: what the base was trained for, 8192 at most on a CPU."""
    max_loras: int = Field(default=8, ge=1, le=512)
    """Adapters that one batch can hold."""
    max_lora_rank: Literal[8, 16, 32, 64, 128, 256, 320, 512] = 64
    """Largest rank served; the default is what the registry accepts."""
    max_loaded: int = Field(default=64, ge=1)
    """Adapters that are kept loaded; the least recently used idle one makes room."""
    max_num_seqs: int = Field(default=32, ge=1)
    """Sequences that are generated at the same time."""
    kv_cache_gib: float = Field(default=1.0, gt=0)
    """Memory for the KV cache on a CPU, in GiB."""
    gpu_memory_utilization: float = Field(default=0.9, gt=0, lt=1)
    """Share of a GPU's memory that the engine may take."""
    tensor_parallel_size: int = Field(default=1, ge=1, le=1024)
    """GPUs that each layer is cut over."""
    pipeline_parallel_size: int = Field(default=1, ge=1, le=1024)
    """Stages that the layers are shared out to, each on as many GPUs as a layer is cut over."""
    distributed_executor_backend: Literal["auto", "mp", "ray"] = "auto"
    """What starts the engine's workers; auto: none or mp; ray: on several machines."""
    fully_sharded_loras: bool = False
    """Cut both halves of every adapter over the GPUs, not one."""
    tool_call_parser: str = "hermes"
    """vLLM's parser of the model's tool calls, for `tool_choice: auto`."""

    max_queue: int = Field(default=256, ge=1)
    """Requests that wait for their turn; one more gets 503 with Retry-After."""
    max_queue_per_tenant: int = Field(default=128, ge=1)
    """Of these, requests of one tenant; one more gets 429 with Retry-After."""
    queue_seconds: float = Field(default=120, gt=0)
    """Longest wait for a turn; then 503."""
    stale_seconds: float = Field(default=24 * 3600, gt=0)
    """How long keys are believed while the registry is away; then requests are refused."""
    max_body_bytes: int = Field(default=4 * 1024**2, ge=1024)
    """Of a request in JSON."""
    max_upload_bytes: int = Field(default=4 * 1024**3, ge=1024)
    """Of an adapter that an admin uploads."""
    fine_tuning: bool = True
    """Answer `/v1/files` and `/v1/fine_tuning`."""
    max_file_bytes: int = Field(default=512 * 1024**2, ge=1024)
    """Of one file that a tenant sends for training."""
    max_tenant_file_bytes: int = Field(default=10 * 1024**3, ge=1024)
    """Of all files that are kept for a tenant."""
    max_tenant_jobs: int = Field(default=100, ge=1)
    """Fine-tuning jobs of a tenant that are not done."""
    max_output_tokens: int = Field(default=8192, ge=1)
    """Bound of `max_tokens` in a request."""
    load_timeout_seconds: float = Field(default=60, gt=0)
    """For one adapter to be checked and loaded."""
    ping_seconds: float = Field(default=5, gt=0)
    """How often the engine is asked for a sign of life."""
    hang_seconds: float = Field(default=60, gt=0)
    """How long it may owe one before it is taken for hung and started anew."""
    drain_seconds: int = Field(default=30, ge=0)
    """How long running answers may take after Ctrl-C or SIGTERM."""
    replicas: int = Field(default=1, ge=1, le=1024)
    """Servers behind one address, each with an engine of its own."""
    max_replicas: int | None = Field(default=None, ge=1, le=1024)
    """As many as requests need, from `replicas` to this; None: always `replicas`."""
    upscale_seconds: float = Field(default=30, ge=0)
    """How long they must be too few before one is added."""
    downscale_seconds: float = Field(default=600, ge=0)
    """How long they must be too many before one is taken away."""
    with_worker: bool = False
    """Run `lorikeet worker` beside the server."""
    train_window: str | None = None
    """When that worker may train, in the machine's local time: 22:00-06:00; None: always."""
    metrics_port: int | None = Field(default=None, ge=0, le=MAX_PORT)
    """Serve `/metrics` there, without keys, instead of on `port`; 0: any free one."""
    metrics_adapters: int = Field(default=100, ge=1, le=1000)
    """Adapter versions that have series of their own: the busiest; the others are `other`."""
    metrics_tenants: int = Field(default=100, ge=1, le=1000)
    """Tenants that have series of their own."""
    log_format: Literal["human", "json"] = "human"
    """How each line on standard error looks."""
    access_log: bool = True
    """One line a request."""
    log_prompts: bool = False
    """Put what is asked and answered into that line."""
    otlp_endpoint: str | None = Field(
        default=None,
        validation_alias=AliasChoices(
            "LORIKEET_SERVE_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"
        ),
    )
    """OpenTelemetry collector that spans are sent to over HTTP; None: there are none."""
    verbose: bool = False
    """Show the engine's own log."""
    echo_token_seconds: float = Field(default=0, ge=0)
    """What a token takes the echo engine."""
    echo_load_seconds: float = Field(default=0, ge=0)
    """What an adapter's load takes the echo engine."""

    @model_validator(mode="after")
    def _slots_fit(self) -> Self:
        if self.max_loaded < self.max_loras:
            raise ValueError(
                f"max_loaded ({self.max_loaded}) must be at least max_loras ({self.max_loras})"
            )
        return self

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        if self.metrics_port is not None and 0 != self.metrics_port == self.port:
            raise ValueError(f"--metrics-port and --port are both {self.port}")
        return self

    @model_validator(mode="after")
    def _prompts_have_a_line(self) -> Self:
        if self.log_prompts and not self.access_log:
            raise ValueError("--log-prompts adds to the access log that --no-access-log leaves out")
        return self

    @field_validator("otlp_endpoint")
    @classmethod
    def _collector(cls, endpoint: str | None) -> str | None:
        if endpoint is not None:
            parts = urlsplit(endpoint)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(
                    "name the collector's OTLP/HTTP URL, such as http://127.0.0.1:4318"
                )
        return endpoint

    @field_validator("train_window")
    @classmethod
    def _window(cls, window: str | None) -> str | None:
        """The worker parses it; here it is told at once what it would refuse."""
        clock = r"(?:[01]?\d|2[0-3]):[0-5]\d"
        if window is not None and window != "24h":
            found = re.fullmatch(f"({clock})-({clock})", window)
            if found is None or found[1].zfill(5) == found[2].zfill(5):
                raise ValueError("write two times of the day, such as 22:00-06:00, or 24h")
        return window

    @model_validator(mode="after")
    def _window_has_a_worker(self) -> Self:
        if self.train_window is not None and not self.with_worker:
            raise ValueError("--train-window is for the worker that --with-worker starts")
        return self

    @property
    def workers(self) -> int:
        """The engine's workers, each on a GPU of its own."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    @model_validator(mode="after")
    def _replicas_grow(self) -> Self:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(
                f"max_replicas ({self.max_replicas}) must be at least replicas ({self.replicas})"
            )
        if self.replicated and self.with_worker:
            raise ValueError("--with-worker is for one server: run lorikeet worker beside replicas")
        if self.replicated and 0 in (self.port, self.metrics_port):
            raise ValueError("replicas need a --port, and a --metrics-port, that is known")
        ports = self.metrics_ports if self.replicated else range(0)
        if self.port in ports or ports.stop > MAX_PORT + 1:
            raise ValueError(
                f"replicas have their metrics on {ports.start} to {ports.stop - 1}: these must be "
                f"ports, and none of them --port ({self.port})"
            )
        return self

    @property
    def replicated(self) -> bool:
        """Whether there may be more than one server."""
        return self.replicas > 1 or self.max_replicas is not None

    @property
    def most_replicas(self) -> int:
        """As many as there may be."""
        return max(self.replicas, self.max_replicas or 0)

    @property
    def metrics_ports(self) -> range:
        """Where replicas tell their metrics, each on one of them."""
        if self.metrics_port is None:
            return range(0)
        return range(self.metrics_port, self.metrics_port + self.most_replicas)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
