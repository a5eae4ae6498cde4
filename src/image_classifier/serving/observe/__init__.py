"""What the server reports about itself: metrics, logs, and drift of its inputs."""
