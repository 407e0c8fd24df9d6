"""Training pairs from a folder of photographs, and the benchmark sets."""
