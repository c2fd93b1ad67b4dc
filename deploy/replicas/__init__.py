"""Several replicas of the server behind one address, by Ray Serve.

client → Ray Serve's proxy → ingress → a replica: `create_app` on an engine of its own
                                 └─ keeper: what API keys have used, counted once for all

The ingress reads which model a request names, and the handle's router picks the replica that has
the adapter loaded (`serve.affinity`). `lorikeet serve --replicas N` runs all of it on one machine;
`serve run deploy.ray_serve:app` on a cluster that is there.
"""
