"""The alerts on what is broken or soon will be; the objectives' are in `objectives`."""

from deploy.monitoring.rules import Alert, Condition, Group

GIB = 1024**3
REFUSED = 'lorikeet_admission_refusals_total{reason=~"queue_full|tenant_queue_full|queue_timeout"}'
COLD = 'sum by (job, instance) (rate(lorikeet_adapter_hits_total{kind="cold"}[10m]))'
HITS = "sum by (job, instance) (rate(lorikeet_adapter_hits_total[10m]))"
FAILED_LOADS = 'lorikeet_adapter_loads_total{outcome=~"refused|failed|timeout"}'
EVICTIONS = "sum by (job, instance) (increase(lorikeet_adapter_evictions_total[10m]))"
FREE = "lorikeet_disk_free_bytes / lorikeet_disk_total_bytes"
REMEMBERED = "3d"
"""For so long what was a Lorikeet is missed."""
KNOWN = f"last_over_time(lorikeet_build_info[{REMEMBERED}])"
THERE = "count by (job) (lorikeet_build_info)"
SCALED = (
    f"last_over_time(lorikeet_max_replicas[{REMEMBERED}])\n"
    f"    > last_over_time(lorikeet_min_replicas[{REMEMBERED}])"
)
"""Of replicas that come and go with the requests."""
IN_TOUCH = "and on (job, instance) lorikeet_registry_up == 1"
"""Whose figures of jobs and workers are not old ones."""
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
                # What was a Lorikeet lately, whatever its scrape job is called.
                f"(\n  up\n  and on (job, instance) {KNOWN}\n"
                f"  unless on (job, instance) (\n    {SCALED}\n  )\n)",
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
        "LorikeetServiceGone",
        "page",
        (
            Condition(
                f"(\n  {THERE}\n  or\n  0 * count by (job) ({KNOWN})\n)",
                "==",
                0,
            ),
        ),
        "5m",
        "{{ $labels.job }}: no server is left that answers Prometheus",
        felt="nothing is answered at all, or nobody can tell.",
        look="are the machines, the pods, Ray there; does Prometheus still find its targets "
        "(its page Targets); GET /health on a server.",
        do="start a server: it serves every published adapter as before. If only Prometheus has "
        "lost them, mend its targets.",
    ),
    Alert(
        "LorikeetTooFewReplicas",
        "ticket",
        (
            Condition(f"{THERE}\n- max by (job) (lorikeet_min_replicas)", "<", 0),
            Condition(
                "max by (job) (lorikeet_max_replicas - lorikeet_min_replicas)",
                ">",
                0,
            ),
        ),
        "15m",
        "{{ $labels.job }}: fewer replicas answer Prometheus than there should be at least",
        felt="nothing while the others keep up.",
        look=f"{SERVICE}, Replicas; the log of `lorikeet serve`: why a replica does not start "
        "(memory, GPUs in use).",
        do="Ray starts them by itself. When each start fails: free what it lacks, or start "
        "`lorikeet serve` again with a --replicas that fits.",
    ),
    Alert(
        "LorikeetEngineDown",
        "page",
        (
            Condition("lorikeet_engine_up", "==", 0),
            Condition("lorikeet_engine_starting", "==", 0),
        ),
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
            Condition("lorikeet_engine_up + lorikeet_engine_starting", ">", 0),
        ),
        "45m",
        f"{SERVER} has not been ready for 45 minutes, and its engine is not down",
        felt="nothing while other servers answer; else 503.",
        look="GET /ready on the server. `draining`: who called /admin/drain. `starting`: the "
        "server's log.",
        do="drained: POST /admin/resume, or stop it. A first start that does not end: is the base "
        "still being fetched, is the disk slow; else start the server again.",
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
        do="one tenant: lower its key's limits (`lorikeet keys limit`). All: add a server; more "
        "--max-num-seqs helps only while the KV cache has room.",
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
        "turn: `lorikeet keys limit` its key.",
    ),
)
_AGE = f"max by (job, training_job) (\n  lorikeet_training_last_event_age_seconds\n  {IN_TOUCH}\n)"
_WAITING = f'max by (job) (\n  lorikeet_training_jobs{{status="queued"}}\n  {IN_TOUCH}\n)'
_WORKERS = f"max by (job) (\n  lorikeet_training_workers\n  {IN_TOUCH}\n)"
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
            Condition(_WAITING, ">", 0),
            Condition(_WORKERS, "==", 0),
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
        do="delete the folders of runs that have succeeded (`lorikeet runs list`; runs/RUN in the "
        "data folder) and old versions (`lorikeet adapters remove`), or give it a larger disk.",
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
        do="stop what grows (`lorikeet jobs pause`), then make room as for LorikeetDiskLow.",
    ),
)
