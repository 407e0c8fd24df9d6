"""Our engine and other runtimes on the same network, measured in one interleaved run; see docs/benchmarks.md."""
