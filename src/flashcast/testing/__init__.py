"""What tests need and users may want for theirs: the engine contract as a suite, an engine in memory, virtual time."""
