"""The control plane of a worker: it takes shards, claims chunks, and settles; `deliver` does the sending."""
