"""`lorikeet top`: what a running server does, live, out of its `/metrics` and `/admin/adapters`."""
