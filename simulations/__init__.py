"""The swarm: real processes on one machine (`processes`, `demo`, `swarm`), benchmarks (`bench`), synthetic engines."""
