"""The parts of scripts/zombie_vectors.py."""
