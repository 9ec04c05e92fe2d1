"""What is claimed about speed, measured: every figure is a ratio against a named reference in the same run.

``python -m benchmarks`` runs all of it, prints the table and writes ``runs/benchmarks.json``; ``python -m benchmarks
losses`` runs one part. The protocol is in :mod:`benchmarks.protocol`, results and what falls short in
``docs/performance.md``. ``python -m benchmarks.taps_at_scale`` is another matter: it checks, and times nothing.
"""
