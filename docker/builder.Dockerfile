# Image of the task image-classifier-build, which builds images in clusters without kpack.
FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install --yes --no-install-recommends bash buildah ca-certificates curl skopeo \
 && rm -rf /var/lib/apt/lists/*
