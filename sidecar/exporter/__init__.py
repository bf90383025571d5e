"""Show Prometheus, Kubernetes and people what the sidecar knows."""
