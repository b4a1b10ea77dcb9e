"""What `make bench` measures. Each module has a `run` that prints its figures; none of it is a test."""
