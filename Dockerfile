# Images of the chain, one target each: --target server | trainer | mlflow
# The libraries are in layers below the code, so that a commit changes only a few hundred kilobytes.
# In a cluster that cannot reach Docker Hub, the build argument names another copy of the base image.
ARG PYTHON_IMAGE=python:3.11-slim
FROM ${PYTHON_IMAGE} AS base
ENV HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app

# Lists the packages of an image, from a separate environment; only the list is added to the image.
FROM base AS bom
COPY requirements/bom.txt requirements/
RUN python -m venv --without-pip /bom \
 && pip --python /bom/bin/python install --requirement requirements/bom.txt
COPY src/image_classifier/attestation/image_bom.py pyproject.toml /bom/

FROM base AS wheel
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip wheel --no-deps --wheel-dir /wheels .

FROM base AS server-libraries
COPY requirements/serve.txt requirements/
RUN pip install --requirement requirements/serve.txt
RUN --mount=from=bom,source=/bom,target=/bom /bom/bin/python /bom/image_bom.py

# Serves requests, and downloads models for KServe.
FROM server-libraries AS server
COPY --from=wheel /wheels /wheels
RUN pip install --no-deps /wheels/*.whl
ENV IMAGE_CLASSIFIER_HOST=0.0.0.0
EXPOSE 8080
USER 1000:1000
ENTRYPOINT ["image-classifier"]
CMD ["serve"]

FROM base AS trainer-libraries
COPY requirements/test.txt requirements/
RUN pip install --requirement requirements/test.txt
RUN --mount=from=bom,source=/bom,target=/bom /bom/bin/python /bom/image_bom.py

# Runs the steps of the chain, including the tests and their libraries.
FROM trainer-libraries AS trainer
COPY --from=wheel /wheels /wheels
RUN pip install --no-deps /wheels/*.whl
USER 1000:1000
ENTRYPOINT ["image-classifier"]

# Tracks runs and holds the model registry, on a volume or on PostgreSQL and S3.
FROM base AS mlflow
COPY requirements/mlflow.txt requirements/
RUN pip install --requirement requirements/mlflow.txt
RUN --mount=from=bom,source=/bom,target=/bom /bom/bin/python /bom/image_bom.py
USER 1000:1000
ENTRYPOINT ["mlflow"]
CMD ["server"]
