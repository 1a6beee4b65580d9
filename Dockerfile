# Both stages begin with the same image, by digest: what the first one installs runs in the second one as it is.
# Another mirror, or another Python from 3.11 on: --build-arg BASE=…
ARG BASE=python:3.13.15-slim-trixie@sha256:9d2e5553305c7c7b0097999bb17187c69b921ccd6bc9d40e4bb5ebe652c00285


FROM ${BASE} AS build

# Builders set it to the commit's date, so that the same sources make the same image; buildx hands it on by itself.
ARG SOURCE_DATE_EPOCH=1580601600
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=0
WORKDIR /src

# pip stays in a virtual environment of this stage; the exporter's own has none.
COPY requirements/build.txt requirements/runtime.txt requirements/
RUN python3 -m venv /build \
 && python3 -m venv --without-pip /opt/heat-deployment-exporter \
 && /build/bin/pip install --no-compile --only-binary=:all: --require-hashes -r requirements/build.txt \
 && /build/bin/pip --python /opt/heat-deployment-exporter/bin/python install \
      --no-compile --only-binary=:all: --require-hashes -r requirements/runtime.txt

COPY pyproject.toml README.md LICENSE ./
COPY exporter exporter
COPY --chmod=0644 deploy/image/healthy.py /opt/heat-deployment-exporter/share/healthy.py
# Bytecode is compiled here, as a read-only file system can't keep it, and never compared with its source again:
# files of an image don't change. Test suites of dependencies are no use to anybody here.
RUN /build/bin/python -m hatchling build -t wheel -d /dist \
 && /build/bin/pip --python /opt/heat-deployment-exporter/bin/python install \
      --no-compile --no-index --no-deps --find-links /dist heat-deployment-exporter \
 && rm -rf /opt/heat-deployment-exporter/lib/python3*/site-packages/openstack/tests \
      /opt/heat-deployment-exporter/lib/python3*/site-packages/keystoneauth1/tests \
 && /opt/heat-deployment-exporter/bin/python -m compileall -q -f -j 1 --invalidation-mode unchecked-hash \
      /opt/heat-deployment-exporter/lib


FROM ${BASE}

# Nothing is installed in a running container: what could do it goes.
RUN rm -rf /usr/local/bin/pip* /usr/local/lib/python3*/site-packages/pip* /usr/local/lib/python3*/ensurepip \
      /usr/local/lib/python3*/idlelib /usr/lib/python3*/ensurepip /usr/share/python-wheels

COPY --from=build /opt/heat-deployment-exporter /opt/heat-deployment-exporter

# The home folder is one that nobody can write to, but has a name: clouds.yaml is looked for in it, and in /etc/openstack.
ENV PATH=/opt/heat-deployment-exporter/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/nonexistent \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /
USER 65532:65532
EXPOSE 19180
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s --retries=3 \
  CMD ["/opt/heat-deployment-exporter/bin/python", "-I", "/opt/heat-deployment-exporter/share/healthy.py"]
ENTRYPOINT ["/opt/heat-deployment-exporter/bin/heat-deployment-exporter"]
CMD ["serve"]

ARG BASE
ARG VERSION=unreleased
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="heat-deployment-exporter" \
      org.opencontainers.image.description="Prometheus exporter for OpenStack Heat software deployments" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.base.name="${BASE}"
