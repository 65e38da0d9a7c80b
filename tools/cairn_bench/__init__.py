"""What `make bench` measures: one module for each kind of figure, and tools/bench.py as the way in."""
