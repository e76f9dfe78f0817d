"""Buffers, locks and worker threads: what everything else runs on."""
