"""`lorikeet worker`: fine-tuning jobs from the job table, each in a process of its own."""
