# Builds images in the cluster, where there is no kpack: what the task image-classifier-build runs in.
FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install --yes --no-install-recommends bash buildah ca-certificates curl skopeo \
 && rm -rf /var/lib/apt/lists/*
