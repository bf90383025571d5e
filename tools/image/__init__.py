"""Build the container images for real and try them: `python -m tools.image`, or `make image`."""
