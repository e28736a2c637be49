# LM-GNN as an image: an ordinary user, a root that can be read-only, one folder to write (/srv/lmgnn).
#   docker build -t lm-gnn .                                                           CPU
#   docker build -t lm-gnn:gpu --build-arg TORCH_INDEX=https://pypi.org/simple .       CUDA build of torch
# docs/operations.md, section "Image", says how to run it, and how the base is pinned by digest.

# Any image of Debian 12 (it has the Python 3.11 that DGL 1.1.3 needs). torch's CUDA wheels bring CUDA
# with them, and the driver comes from the host: a GPU image needs no other base, but may have one.
ARG BASE=debian:bookworm-20250520-slim

FROM ${BASE} AS build
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update \
 && apt-get install --yes --no-install-recommends \
      ca-certificates=20* python3.11=3.11.2-* python3.11-venv=3.11.2-* \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/lm-gnn
COPY . .
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# The same installer and lock as everywhere. A checkout is known by pyproject.toml; without it, runs, store and
# data lie in the working folder, not here.
RUN --mount=type=cache,target=/root/.cache/pip \
    PIP_EXTRA_INDEX_URL=${TORCH_INDEX} python3.11 launch/bootstrap.py \
 && .venv/bin/python -m compileall -q launch partition pipeline \
 && .venv/bin/python -m pip uninstall --yes pip \
 && rm -r pyproject.toml .venv/install.log

FROM ${BASE}
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update \
 && apt-get install --yes --no-install-recommends \
      ca-certificates=20* python3.11=3.11.2-* tini=0.19.0-* \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 10001 lmgnn \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /srv/lmgnn --shell /usr/sbin/nologin lmgnn \
 && install --directory --owner=lmgnn --group=lmgnn /srv/lmgnn
COPY --from=build /opt/lm-gnn /opt/lm-gnn
# What libraries like to write goes where writing is allowed.
ENV PATH=/opt/lm-gnn/.venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    HF_HOME=/srv/lmgnn/huggingface \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
WORKDIR /srv/lmgnn
VOLUME /srv/lmgnn
ENTRYPOINT ["/usr/bin/tini", "--", "/opt/lm-gnn/.venv/bin/lmgnn"]
