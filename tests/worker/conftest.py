"""The workers' bench, for every test here."""

from worker_bench import bench

__all__ = ["bench"]
