"""The alerts on what is broken or soon will be; the objectives' are in `objectives`."""

from deploy.monitoring.rules import Alert, Condition, Group

GIB = 1024**3
REFUSED = 'lorikeet_admission_refusals_total{reason=~"queue_full|tenant_queue_full|queue_timeout"}'
COLD = 'sum by (job, instance) (rate(lorikeet_adapter_hits_total{kind="cold"}[10m]))'
HITS = "sum by (job, instance) (rate(lorikeet_adapter_hits_total[10m]))"
FAILED_LOADS = 'lorikeet_adapter_loads_total{outcome=~"refused|failed|timeout"}'
EVICTIONS = "sum by (job, instance) (increase(lorikeet_adapter_evictions_total[10m]))"
FREE = "lorikeet_disk_free_bytes / lorikeet_disk_total_bytes"
SERVER = "{{ $labels.instance }}"
SERVICE = "dashboard Lorikeet service"


def fault_groups() -> tuple[Group, ...]:
    """All of them, by what they are about."""
    return (
        Group("lorikeet-servers", _SERVERS),
        Group("lorikeet-load", _LOAD),
        Group("lorikeet-adapters", _ADAPTERS),
        Group("lorikeet-training", _TRAINING),
        Group("lorikeet-disk", _DISK),
    )


_SERVERS = (
    Alert(
        "LorikeetServerDown",
        "page",
        (
            Condition(
                # What was a Lorikeet within a day, whatever its scrape job is called.
                "(up and on (job, instance) last_over_time(lorikeet_build_info[1d]))",
                "==",
                0,
            ),
        ),
        "2m",
        f"{SERVER} does not answer Prometheus",
        felt="connections to this server are refused or hang; with no other server nothing is "
        "answered.",
        look="is the process there, and what did it print last; GET /health and /ready on the "
        "machine; memory (an out-of-memory kill is in `dmesg`).",
        do="start it again: it serves every published adapter as before. If it only fails to be "
        "scraped, check the key or --metrics-port that Prometheus uses.",
    ),
    Alert(
        "LorikeetEngineDown",
        "page",
        (Condition("lorikeet_engine_up", "==", 0),),
        "5m",
        f"the engine of {SERVER} has been down for 5 minutes",
        felt="every request to this server gets 503; streams under way were cut off.",
        look=f"{SERVICE}, Engine restarts; the server's log says why the engine does not start "
        "(memory, GPU, base model).",
        do="it is started again by itself. When each start fails: free memory or the GPU, or "
        "restart the process on another machine.",
    ),
    Alert(
        "LorikeetEngineRestarts",
        "ticket",
        (Condition("increase(lorikeet_engine_restarts_total[1h])", ">", 2),),
        "0m",
        f"the engine of {SERVER} keeps dying",
        felt="at each restart the requests under way fail and the next ones wait for the engine.",
        look="the server's log before each restart: a signal, out of memory, a silence that was "
        "taken for a hang.",
        do="out of memory: lower --kv-cache-gib, --max-loras or --max-num-seqs. One adapter each "
        "time: quarantine it by moving its alias. A hang: raise LORIKEET_SERVE_HANG_SECONDS only "
        "if the machine is simply slow.",
    ),
    Alert(
        "LorikeetNotReady",
        "ticket",
        (
            Condition("lorikeet_ready", "==", 0),
            Condition("lorikeet_engine_up", "==", 1),
        ),
        "30m",
        f"{SERVER} has refused requests for 30 minutes though its engine is up",
        felt="nothing while other servers answer; else 503, `the server is draining`.",
        look="GET /ready on the server; who called /admin/drain.",
        do="POST /admin/resume, or stop the server that was drained.",
    ),
    Alert(
        "LorikeetRegistryDown",
        "page",
        (Condition("lorikeet_registry_up", "==", 0),),
        "5m",
        f"{SERVER} does not reach its registry's database",
        felt="what is published is served on, by the names and keys that are known; nothing can be "
        "published, trained or revoked. After LORIKEET_SERVE_STALE_SECONDS (a day) keys are not "
        "believed any more: 503.",
        look="the database at LORIKEET_DATABASE_URL: up, full, reachable, password changed; with "
        "SQLite the data folder's disk.",
        do="bring the database back; servers and workers go on by themselves.",
    ),
    Alert(
        "LorikeetStoreDown",
        "ticket",
        (Condition("lorikeet_store_up", "==", 0),),
        "5m",
        f"{SERVER} does not reach the shared store of adapters",
        felt="adapters that are loaded, or in its cache, answer; others get 503 with Retry-After. "
        "Nothing can be published or trained.",
        look="GET /ready on the server; the store at LORIKEET_STORE_URL: up, reachable, bucket and "
        "credentials as they were, this machine's clock.",
        do="bring the store back; the server goes on by itself.",
    ),
)
_LOAD = (
    Alert(
        "LorikeetQueueFull",
        "ticket",
        (Condition(f"sum by (job, instance) (rate({REFUSED}[5m]))", ">", 0.05),),
        "5m",
        f"{SERVER} turns requests away: its queue is full",
        felt="some requests get 503 or 429 with Retry-After; the others wait long for their first "
        "token.",
        look=f"{SERVICE}, Running and queued and Refusals by reason; dashboard Lorikeet tenants: "
        "whose queue it is. tenant_queue_full alone is one tenant's affair.",
        do="one tenant: lower its key's limits. All: add a server; more --max-num-seqs helps only "
        "while the KV cache has room.",
    ),
)
_ADAPTERS = (
    Alert(
        "LorikeetAdapterQuarantined",
        "page",
        (Condition("increase(lorikeet_adapter_quarantines_total[30m])", ">", 0),),
        "0m",
        f"{SERVER} has quarantined an adapter",
        felt="requests for this version get 503 `adapter_quarantined`; all other models are fine.",
        look="`lorikeet adapters list` and the server's log name the version and the reason "
        "(its output was NaN or infinite).",
        do="`lorikeet adapters rollback NAME` if the version is behind an alias; then tell its "
        "owner. `lorikeet adapters release NAME@V` only when the cause is gone.",
    ),
    Alert(
        "LorikeetAdapterLoadsFail",
        "ticket",
        (Condition(f"sum by (job, instance) (increase({FAILED_LOADS}[30m]))", ">", 4),),
        "0m",
        f"{SERVER} cannot load an adapter that is asked for",
        felt="requests for it get 400 `adapter_refused` or 503; all other models are fine.",
        look="the server's log and `lorikeet adapters verify NAME@V`: files gone or changed, a "
        "slow disk, a rank above --max-lora-rank.",
        do="point the alias at a version that loads (`lorikeet adapters rollback NAME`), or "
        "publish it again.",
    ),
    Alert(
        "LorikeetColdLoadStorm",
        "ticket",
        (
            Condition(f"{COLD}\n/ {HITS}", ">", 0.2),
            Condition(EVICTIONS, ">", 20),
        ),
        "10m",
        f"{SERVER} loads and evicts adapters all the time",
        felt="first tokens are late by a load, again and again; the engine does less else.",
        look="dashboard Lorikeet adapters, Warm and cold: share of cold requests, evictions, which "
        "models.",
        do="more adapters are in use than are kept: raise --max-loaded (memory permitting), or "
        "give groups of adapters to servers of their own. A crawler that asks for each model in "
        "turn: limit its key.",
    ),
)
_AGE = "max by (job, training_job) (lorikeet_training_last_event_age_seconds)"
_TRAINING = (
    Alert(
        "LorikeetTrainingStalled",
        "ticket",
        (Condition(_AGE, ">", 900),),
        "5m",
        "the training job {{ $labels.training_job }} has said nothing for 15 minutes",
        felt="nothing in serving; a job's owner waits.",
        look="`lorikeet jobs show {{ $labels.training_job }}` and `lorikeet jobs workers`; "
        "the worker's log; the GPU's use.",
        do="end a worker that hangs: its lease runs out and another one goes on from the last "
        "checkpoint. A job that hangs each time: `lorikeet jobs cancel`.",
    ),
    Alert(
        "LorikeetNoTrainingWorker",
        "ticket",
        (
            Condition('max by (job) (lorikeet_training_jobs{status="queued"})', ">", 0),
            Condition("max by (job) (lorikeet_training_workers)", "==", 0),
        ),
        "15m",
        "{{ $labels.job }}: fine-tuning jobs wait and no worker is there",
        felt="nothing in serving; fine-tuning jobs stay queued.",
        look="`lorikeet jobs workers`; the workers' logs.",
        do="start `lorikeet worker`, or the server with --with-worker.",
    ),
)
_DISK = (
    Alert(
        "LorikeetDiskLow",
        "ticket",
        (Condition(FREE, "<", 0.1),),
        "15m",
        f"{SERVER} has {{{{ $value | humanizePercentage }}}} of its data folder's disk left",
        felt="nothing yet.",
        look="the data folder (LORIKEET_HOME): runs with checkpoints, old versions, uploaded "
        "files; logs beside it.",
        do="delete old runs and versions (`lorikeet runs`, `lorikeet adapters remove`), or give "
        "the folder a larger disk.",
    ),
    Alert(
        "LorikeetDiskFull",
        "page",
        (
            Condition("predict_linear(lorikeet_disk_free_bytes[1h], 4 * 3600)", "<", GIB),
            Condition(FREE, "<", 0.15),
        ),
        "10m",
        f"the data folder's disk of {SERVER} is full within 4 hours",
        felt="answers go on; publications and uploads are refused with 503, running jobs fail at "
        "their next checkpoint, SQLite cannot write.",
        look="what grows in the data folder (LORIKEET_HOME): `du -xh -d 2 | sort -h`.",
        do="stop what grows (`lorikeet jobs pause`), delete old runs, give the folder more disk.",
    ),
)
