"""The only sockets of the sender: TLS channels that never block."""
