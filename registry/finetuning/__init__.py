"""Files and fine-tuning jobs: what tenants ask for, and what workers make of it.

    with Registry.open() as registry:
        file = registry.files.get("acme", "file-…")
        job = registry.jobs.create(request, tenant="acme", base=base)
        claim = registry.queue.claim_training("worker-1")

The objects are OpenAI's (`as_dict` gives their JSON); the types of the `openai` package are the
reference.
"""
