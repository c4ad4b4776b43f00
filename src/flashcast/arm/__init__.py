"""Before GO: how many connections, and keeping them warm."""
