"""Where shared state lives: one contract (`base`), SQLite for one machine, NATS JetStream for a fleet."""
