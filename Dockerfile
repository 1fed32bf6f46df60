# The server in an image. Dockerfile.gpu is the same for CUDA: a change to one is a change to both.
#
#   docker build -t stfs .
#   docker run -p 8500:8500 -v "$PWD/model:/model:ro" stfs
#   docker run -p 8500:8500 -v "$PWD/model:/model:ro" stfs --model_name=mine --max_batch_size=256
#
# What follows the image's name are flags of `stfs serve`; `-e STFS_...` says the same. With nothing mounted at /model
# it serves a small demo model. Keep the port inside at 8500 and choose the one outside with -p: the health check asks
# $STFS_PORT.
#
# Build arguments:
#   BASE_IMAGE  any Debian or Ubuntu, with or without Python (3.11 or newer)
#   EXTRAS      what the image can serve: the extras of pyproject.toml; EXTRAS=onnx makes a small image
#   PACKAGES    further pip requirements, such as the library that a pickled model was made with
#   COMPILER    compiles the fast JSON; empty: none, and the Python twin serves
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS tools
ARG COMPILER=g++
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# Unpinned, since the archives keep only the newest build of a package.
# hadolint ignore=DL3008
RUN export DEBIAN_FRONTEND=noninteractive \
    && apt-get update \
    && { python3 -c "import ensurepip" || apt-get install --yes --no-install-recommends python3-venv; } \
    && if [ -n "${COMPILER}" ]; then \
         apt-get install --yes --no-install-recommends "${COMPILER}" libc6-dev \
         && { test -e "$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" \
              || apt-get install --yes --no-install-recommends python3-dev; }; \
       fi \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/tools

FROM tools AS build
ARG EXTRAS=images,onnx,sklearn,tensorflow
ARG PACKAGES=""
RUN python3 -m venv --without-pip /opt/stfs
# The frameworks first, for a package with no code in it: the layer holds until the requirements change.
WORKDIR /build/requirements
COPY pyproject.toml constraints.txt ./
# PACKAGES is a list, so it stays unquoted.
# hadolint ignore=SC2086
RUN mkdir stfs && touch stfs/__init__.py README.md LICENSE \
    && /opt/tools/bin/pip --python /opt/stfs/bin/python install --constraint constraints.txt ".[${EXTRAS}]" ${PACKAGES}
WORKDIR /build/source
COPY pyproject.toml setup.py README.md LICENSE ./
COPY stfs stfs
RUN /opt/tools/bin/pip wheel --no-deps --wheel-dir /build/wheels . \
    && /opt/tools/bin/pip --python /opt/stfs/bin/python install --no-deps --force-reinstall /build/wheels/*.whl

FROM tools AS demo
WORKDIR /build/demo
COPY constraints.txt examples/make_demo_models.py ./
# Held to the versions in constraints.txt; joblib comes with scikit-learn.
# hadolint ignore=DL3013
RUN /opt/tools/bin/pip install --constraint constraints.txt onnx scikit-learn \
    && /opt/tools/bin/python make_demo_models.py .

FROM ${BASE_IMAGE} AS server
LABEL org.opencontainers.image.title="stfs" \
      org.opencontainers.image.description="Serve any model to any client over HTTP" \
      org.opencontainers.image.licenses="Apache-2.0"
# Unpinned, as above. The user has a name only because some libraries look one up.
# hadolint ignore=DL3008
RUN if ! command -v python3; then \
      apt-get update \
      && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends python3 \
      && rm -rf /var/lib/apt/lists/*; \
    fi \
    && useradd --no-log-init --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin stfs
COPY --from=build /opt/stfs /opt/stfs
# What is mounted at /model hides it.
COPY --from=demo /build/demo/digits /model
# A server reports to nobody: without the variable onnxruntime 1.31 keeps an identity and uploads events.
ENV PATH=/opt/stfs/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    ORT_DISABLE_TELEMETRY=1 \
    STFS_MODEL_BASE_PATH=/model \
    STFS_PORT=8500
USER 10001:10001
EXPOSE 8500
STOPSIGNAL SIGTERM
# Asks /health over HTTP, else over TLS without checking whose certificate it is: either is a server that lives.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 CMD ["python", "-c", "\
import contextlib, http.client, os, ssl\n\
where = dict(host='127.0.0.1', port=int(os.environ['STFS_PORT']), timeout=2)\n\
plain = http.client.HTTPConnection(**where)\n\
sealed = http.client.HTTPSConnection(**where, context=ssl._create_unverified_context())\n\
for connection in plain, sealed:\n with contextlib.suppress(OSError, http.client.HTTPException):\n  \
connection.request('GET', '/health'); raise SystemExit(connection.getresponse().status != 200)\n\
raise SystemExit(1)"]
ENTRYPOINT ["stfs", "serve"]
