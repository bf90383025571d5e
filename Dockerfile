# rag-drift as a container image; docs/image.md says how to build and run it.
#
# Targets: `slim` has no encoder library, `full` (the default) has it. Everything that is ever downloaded is downloaded
# here, by pip, in stages that are thrown away; the two targets run no command of their own and so keep no trace of the
# machine that built them. An index of your own comes in as the build secret `pip-conf`.

ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim-bookworm

# What to install, as pyproject.toml says it. The next stages take these lists and not the file: a change of it that is
# not a dependency installs nothing again. The encoder library is what brings torch.
FROM ${PYTHON_IMAGE} AS lists
WORKDIR /lists
COPY pyproject.toml ./
RUN python -c "import tomllib; \
      project = tomllib.load(open('pyproject.toml', 'rb')); \
      print(*project['build-system']['requires'], sep='\n', file=open('build.txt', 'w')); \
      print(*project['project']['dependencies'], sep='\n', file=open('full.txt', 'w'))" \
 && grep -v '^sentence-transformers' full.txt > slim.txt

# An environment without pip: the image's own pip installs into it, and no installer is in the targets' environment.
FROM ${PYTHON_IMAGE} AS environment
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_PYTHON=/opt/venv/bin/python
WORKDIR /build
RUN python -m venv --without-pip /opt/venv \
 && groupadd --gid 10001 rag-drift \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin rag-drift
COPY constraints.txt ./

FROM environment AS slim-environment
COPY --from=lists /lists/slim.txt ./
RUN --mount=type=secret,id=pip-conf,target=/etc/pip.conf \
    python -m pip install -c constraints.txt -r slim.txt

# The package alone, under /package: the layer that a change of the code makes new has a few megabytes.
FROM environment AS package
RUN python -m venv --without-pip /opt/build
COPY --from=lists /lists/build.txt ./
RUN --mount=type=secret,id=pip-conf,target=/etc/pip.conf \
    python -m pip --python /opt/build/bin/python install -c constraints.txt -r build.txt
COPY pyproject.toml README.md LICENSE ./
COPY probes probes
COPY sidecar sidecar
RUN python -m pip --python /opt/build/bin/python wheel --no-deps --no-build-isolation --wheel-dir /wheel . \
 && python -m pip install --no-deps --no-index --root /package /wheel/*.whl

# What both targets share. Numbers for the user, since Kubernetes checks `runAsNonRoot` against a number only.
FROM ${PYTHON_IMAGE} AS runtime
COPY --from=environment /etc/passwd /etc/group /etc/
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HF_HUB_OFFLINE=1 \
    HF_HOME=/var/cache/huggingface
ARG VERSION=
ARG REVISION=
ARG SOURCE=
LABEL org.opencontainers.image.title="rag-drift-sidecar" \
      org.opencontainers.image.description="Tells on-call when the retrieval of a production RAG service has drifted" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"
USER 10001:10001
EXPOSE 9464
ENTRYPOINT ["rag-drift"]
CMD ["run"]

FROM runtime AS slim
COPY --from=slim-environment /opt/venv /opt/venv
COPY --from=package /package /

# torch by itself and first, so that nothing else chooses its build. TORCH_INDEX is the address of PyTorch's index of CPU
# wheels; what torch needs comes with the encoder library, from the usual index.
FROM environment AS full-environment
ARG TORCH_INDEX=
RUN --mount=type=secret,id=pip-conf,target=/etc/pip.conf \
    python -m pip install -c constraints.txt --no-deps ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch
COPY --from=lists /lists/full.txt ./
RUN --mount=type=secret,id=pip-conf,target=/etc/pip.conf \
    python -m pip install -c constraints.txt -r full.txt

FROM runtime AS full
COPY --from=full-environment /opt/venv /opt/venv
COPY --from=package /package /
