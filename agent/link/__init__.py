"""How bytes come and go: the broker as a queue, resumable fetches, a durable outbox."""
