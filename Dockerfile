# syntax=docker/dockerfile:1
# Three images from one source: `docker build --target api|worker-cpu|worker-gpu .`
# Only worker-gpu holds torch. Every package is one that requirements/ knows by its hash (`make lock` writes them).

FROM python:3.11-slim AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PATH=/opt/tunesmith/bin:$PATH
RUN useradd --uid 10001 --create-home --home-dir /var/lib/tunesmith tunesmith \
    && mkdir -p /var/lib/tunesmith/models /var/lib/tunesmith/scratch \
    && chown -R tunesmith: /var/lib/tunesmith \
    && python -m venv /opt/tunesmith
WORKDIR /usr/src/tunesmith
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY requirements requirements
COPY app app
COPY worker worker
COPY migrations migrations
COPY catalog catalog

FROM base AS api
RUN pip install --require-hashes -r requirements/api.txt \
    && pip install --no-deps --no-build-isolation '.[api]'
USER tunesmith
WORKDIR /var/lib/tunesmith
ENV TUNESMITH_HOST=0.0.0.0 TUNESMITH_PORT=8000
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
CMD ["tunesmith", "api"]

FROM base AS worker-cpu
RUN pip install --require-hashes -r requirements/worker.txt \
    && pip install --no-deps --no-build-isolation '.[worker]'
USER tunesmith
WORKDIR /var/lib/tunesmith
# The root may be read-only: what the Hub's client writes by the way goes where it can.
ENV HF_HOME=/tmp/huggingface
CMD ["tunesmith", "worker", "cpu"]

FROM base AS worker-gpu
# The index of another build of the torch that constraints.txt names; its hashes are that index's affair, with those of
# what only torch needs. Empty takes the build whose hash is known here.
ARG TORCH_INDEX=
RUN if [ -z "$TORCH_INDEX" ]; then pip install --require-hashes -r requirements/engine.txt; \
    else pip install --require-hashes -r requirements/worker.txt \
        && pip install --no-build-isolation -c constraints.txt --extra-index-url "$TORCH_INDEX" '.[worker,engine]'; fi \
    && pip install --no-deps --no-build-isolation '.[worker,engine]'
USER tunesmith
WORKDIR /var/lib/tunesmith
ENV CUDA_CACHE_PATH=/tmp/cuda
CMD ["tunesmith", "worker", "gpu"]
