# One image for each thing that runs, of shared layers: Python, what every server needs, torch, what one service needs,
# our code last. Builds with and without BuildKit; nothing is compiled but Python's byte code and numba's kernels.
#
# PYTHON_IMAGE  Debian (or Ubuntu) with Python 3.11 as python3, and its venv module
# TORCH         what pip installs; torch==2.13.0 gives the CUDA build
# TORCH_LINKS   where its wheel is looked for besides the index: a page of links, or /wheels (deploy/images/wheels)
# TRITON_IMAGE  NVIDIA's Triton, and TRITON_PYTHON its Python
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
ARG TRITON_IMAGE=nvcr.io/nvidia/tritonserver:25.12-py3

# ---------------------------------------------------------------------------------------------- what all images share
FROM ${PYTHON_IMAGE} AS runtime
RUN groupadd --gid 10001 flawsmith \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/flawsmith --shell /usr/sbin/nologin flawsmith \
    && install -d -o 10001 -g 10001 /var/lib/flawsmith \
    && python3 -m venv --without-pip /opt/flawsmith
ENV PATH=/opt/flawsmith/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    FLAWSMITH_STATE_DIR=/var/lib/flawsmith \
    FLAWSMITH_RPC__LISTEN=0.0.0.0:7100 \
    FLAWSMITH_RPC__HEALTH_LISTEN=0.0.0.0:7110 \
    FLAWSMITH_TELEMETRY__METRICS_LISTEN=0.0.0.0:9464
WORKDIR /srv/flawsmith
EXPOSE 7100 7110 9464
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s --retries=3 \
    CMD ["python", "-m", "flawsmith.common.health", "127.0.0.1:7110", "readiness"]

# ------------------------------------------------------------------------------------- packages, each set in /layer
# pip leaves out what /opt/flawsmith has already, so that each set holds only what it adds to the ones below it.
FROM runtime AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
COPY deploy/images/build.lock /locks/
RUN python3 -m venv /opt/build && /opt/build/bin/pip install -q --no-deps --require-hashes -r /locks/build.lock
ENV INSTALL="/opt/build/bin/pip --python /opt/flawsmith install -q --prefix /layer"

FROM build AS server-packages
COPY deploy/images/server.lock /locks/
RUN $INSTALL --no-deps --require-hashes -r /locks/server.lock

FROM build AS augmentation-packages
COPY --from=server-packages /layer /opt/flawsmith
COPY deploy/images/augmentation.lock /locks/
RUN mkdir /layer && $INSTALL --no-deps --require-hashes -r /locks/augmentation.lock

FROM build AS classification-packages
COPY --from=server-packages /layer /opt/flawsmith
COPY deploy/images/classification.lock /locks/
RUN $INSTALL --no-deps --require-hashes -r /locks/classification.lock

FROM build AS torch-packages
ARG TORCH=torch==2.13.0+cpu
ARG TORCH_LINKS=https://download.pytorch.org/whl/cpu/torch/
COPY --from=server-packages /layer /opt/flawsmith
COPY deploy/images/torch.lock /locks/
COPY deploy/images/wheels /wheels
RUN $INSTALL --no-deps --require-hashes -r /locks/torch.lock \
    && cp -a /layer/. /opt/flawsmith/ \
    && $INSTALL --find-links "${TORCH_LINKS}" "${TORCH}" \
    && rm -rf /layer/lib/python3*/site-packages/torch/include /layer/lib/python3*/site-packages/torch/share

FROM build AS generation-packages
COPY --from=server-packages /layer /opt/flawsmith
COPY --from=torch-packages /layer /opt/flawsmith
COPY deploy/images/generation.lock /locks/
RUN $INSTALL --no-deps --require-hashes -r /locks/generation.lock

FROM build AS classification-training-packages
COPY --from=server-packages /layer /opt/flawsmith
COPY --from=classification-packages /layer /opt/flawsmith
COPY --from=torch-packages /layer /opt/flawsmith
COPY deploy/images/classification-training.lock /locks/
RUN $INSTALL --no-deps --require-hashes -r /locks/classification-training.lock

FROM build AS code
COPY pyproject.toml README.md LICENSE /src/
COPY services /src/services
RUN /opt/build/bin/pip wheel -q --no-deps --no-build-isolation --wheel-dir /built /src \
    && $INSTALL --no-deps /built/*.whl \
    && /opt/build/bin/pip install -q --no-deps --no-compile --target /flat /built/*.whl

# Readable whatever the checkout's umask was.
FROM build AS files
COPY deploy/triton /srv/flawsmith/deploy/triton
COPY models/mini /srv/flawsmith/models/mini
RUN chmod -R a+rX /srv/flawsmith

# ------------------------------------------------------------------------------------------------------------ images
FROM runtime AS server
COPY --from=server-packages /layer /opt/flawsmith
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.vendor="flawsmith" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

FROM server AS assembly
COPY --from=code /layer /opt/flawsmith
LABEL org.opencontainers.image.title="flawsmith-assembly" \
      org.opencontainers.image.description="AssemblyService: products, imports, data sets"
USER 10001:10001
ENTRYPOINT ["python", "-m", "flawsmith.assembly"]
CMD ["api"]

FROM server AS augmentation
COPY --from=augmentation-packages /layer /opt/flawsmith
COPY --from=code /layer /opt/flawsmith
# Compiled here: a read-only root file system has no place for it later.
RUN python -m flawsmith.augmentation.warm_up
LABEL org.opencontainers.image.title="flawsmith-augmentation" \
      org.opencontainers.image.description="AugmentationService: per-region defects with exact masks"
USER 10001:10001
ENTRYPOINT ["python", "-m", "flawsmith.augmentation"]
CMD ["api"]

FROM server AS generation
COPY --from=code /layer /opt/flawsmith
LABEL org.opencontainers.image.title="flawsmith-generation" \
      org.opencontainers.image.description="GenerationService's API: adapters, prompts, batches"
USER 10001:10001
ENTRYPOINT ["python", "-m", "flawsmith.generation"]
CMD ["api"]

FROM server AS generation-worker
COPY --from=torch-packages /layer /opt/flawsmith
COPY --from=generation-packages /layer /opt/flawsmith
COPY --from=code /layer /opt/flawsmith
# As in augmentation: adapters are merged by compiled loops.
RUN python -c 'import flawsmith.generation.kernels'
LABEL org.opencontainers.image.title="flawsmith-generation-worker" \
      org.opencontainers.image.description="GenerationService's worker: fine-tunes, draws through Triton"
USER 10001:10001
ENTRYPOINT ["python", "-m", "flawsmith.generation"]
CMD ["worker"]

FROM server AS classification
COPY --from=classification-packages /layer /opt/flawsmith
COPY --from=code /layer /opt/flawsmith
LABEL org.opencontainers.image.title="flawsmith-classification" \
      org.opencontainers.image.description="ClassificationService's API: is this part defective?"
USER 10001:10001
ENTRYPOINT ["python", "-m", "flawsmith.classification"]
CMD ["api"]

FROM server AS classification-worker
COPY --from=classification-packages /layer /opt/flawsmith
COPY --from=torch-packages /layer /opt/flawsmith
COPY --from=classification-training-packages /layer /opt/flawsmith
COPY --from=code /layer /opt/flawsmith
# A deployment puts it beside the model that it uploads.
COPY --from=files /srv/flawsmith/deploy /srv/flawsmith/deploy
LABEL org.opencontainers.image.title="flawsmith-classification-worker" \
      org.opencontainers.image.description="ClassificationService's worker: trains, evaluates, deploys"
USER 10001:10001
ENTRYPOINT ["python", "-m", "flawsmith.classification"]
CMD ["worker"]

FROM server AS prepare
COPY --from=code /layer /opt/flawsmith
COPY --from=files /srv/flawsmith /srv/flawsmith
LABEL org.opencontainers.image.title="flawsmith-prepare" \
      org.opencontainers.image.description="Makes the bucket, migrates the job databases, publishes the base model"
HEALTHCHECK NONE
USER 10001:10001
ENTRYPOINT ["python", "-m", "flawsmith.prepare"]
CMD []

# -------------------------------------------------------------------------------------------------- Triton, with ours
# Its python backend runs our model code with these packages, for the Python that its image has.
FROM build AS triton-packages
ARG TRITON_PYTHON=3.12
ARG TORCH=torch==2.13.0+cpu
ARG TORCH_LINKS=https://download.pytorch.org/whl/cpu/torch/
ENV INSTALL="/opt/build/bin/pip install -q --target /layer --only-binary :all: --python-version ${TRITON_PYTHON}"
COPY deploy/images/triton.lock /locks/
COPY deploy/images/wheels /wheels
RUN $INSTALL --no-deps --require-hashes -r /locks/triton.lock \
    && case "${TORCH}" in *+cpu) alone=--no-deps;; esac \
    && $INSTALL ${alone} --find-links "${TORCH_LINKS}" "${TORCH}" \
    && rm -rf /layer/torch/include /layer/torch/share /layer/bin

FROM ${TRITON_IMAGE} AS triton
COPY --from=triton-packages /layer /opt/flawsmith
COPY --from=code /flat /opt/flawsmith
# First in the path of every Python here: the backend's interpreter may ignore PYTHONPATH, and the image may have a NumPy
# of its own.
RUN install -d -o 10001 -g 10001 /var/lib/flawsmith \
    && sites=$(python3 -c 'import site; print(site.getsitepackages()[0])') && mkdir -p "$sites" \
    && echo 'import sys; sys.path.insert(0, "/opt/flawsmith")' > "$sites/flawsmith.pth"
# Compiled here: a read-only root file system has no place for it later.
RUN python3 -c 'import flawsmith.generation.kernels'
ENV FLAWSMITH_STATE_DIR=/var/lib/flawsmith
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="flawsmith-triton" \
      org.opencontainers.image.description="Triton with what flawsmith's models need" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
HEALTHCHECK --interval=15s --timeout=10s --start-period=120s --retries=3 \
    CMD ["python3", "-m", "flawsmith.common.health", "127.0.0.1:8001", ""]
USER 10001:10001
