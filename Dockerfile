# One image for both halves: `relay web` receives, `relay worker` delivers.
#
#     docker build --tag rowhook .
#     docker run --rm rowhook relay --help
#
# It runs with a read-only root: it writes only in /data and /tmp. Pin both bases by digest for builds that can be
# repeated bit by bit. They differ in the C compiler alone, which one package without a wheel needs.
ARG BUILD_BASE=docker.io/library/python:3.11.14-bookworm
ARG BASE=docker.io/library/python:3.11.14-slim-bookworm

FROM ${BUILD_BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
# No pip in the environment that is shipped: the build's own pip fills it.
RUN python -m venv --without-pip /opt/rowhook
# Locked packages first: a change of our own code then installs nothing again. The HTTP parser in C has no wheel; it
# is compiled with the locked setuptools, so that nothing enters without its hash.
COPY requirements.lock requirements-fast.lock ./
RUN pip --python /opt/rowhook/bin/python install --require-hashes --only-binary :all: -r requirements.lock \
    && pip --python /opt/rowhook/bin/python install --require-hashes --no-build-isolation -r requirements-fast.lock
COPY pyproject.toml README.md LICENSE ./
COPY relay relay
COPY worker worker
RUN pip --python /opt/rowhook/bin/python install --no-deps --no-build-isolation .

FROM ${BASE}
LABEL org.opencontainers.image.title="rowhook" \
      org.opencontainers.image.description="A webhook relay that turns SaaS webhooks into correct, typed rows." \
      org.opencontainers.image.licenses="Apache-2.0"
# A new volume mounted at /data, or at /exports for the export API, takes this owner.
RUN groupadd --gid 10001 rowhook \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin rowhook \
    && install --directory --owner=10001 --group=10001 --mode=0700 /data /exports
COPY --from=build /opt/rowhook /opt/rowhook
ENV PATH=/opt/rowhook/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    RELAY_DATA=/data
USER 10001:10001
WORKDIR /data
VOLUME ["/data"]
EXPOSE 8080
STOPSIGNAL SIGTERM
# For the web half; deploy/compose.yaml has the worker's. Proxies of the environment are not asked.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.build_opener(u.ProxyHandler({})).open(f\"http://127.0.0.1:{os.environ.get('RELAY_PORT') or 8080}/healthz\", timeout=4)"]
CMD ["relay", "web", "--config", "/etc/rowhook/relay.yaml"]
