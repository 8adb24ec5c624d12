# The image of the job; docs/containers.md says how it is built and run.
ARG BASE_IMAGE=python:3.12-slim-bookworm

# The dependencies, which a change of the code leaves as they are. What nothing uses while the job runs is taken out: headers,
# the packages' own tests, Ray's Java, the clang that nothing imports. Bytecode is not compared with its source, so that it
# stays valid whatever a builder does to the times of files.
FROM ${BASE_IMAGE} AS dependencies
ARG VARIANT=gpu
COPY requirements/${VARIANT}.txt requirements/image.txt /requirements/
RUN --mount=type=secret,id=pipconf,target=/etc/pip.conf,required=false \
    python3 -m venv --without-pip /opt/twofold \
    && python3 -m pip --python /opt/twofold/bin/python install --no-cache-dir --no-compile --only-binary=:all: --require-hashes \
        -r "/requirements/${VARIANT}.txt" -r /requirements/image.txt \
    && find /opt/twofold/lib -type d \( -name tests -o -path '*/tensorflow/include' -o -path '*/pyarrow/include' \
        -o -path '*/ray/jars' -o -path '*/clang/native' \) -prune -exec rm -r {} + \
    && /opt/twofold/bin/python -m compileall -q -f -j 0 --invalidation-mode unchecked-hash /opt/twofold/lib

FROM dependencies AS project
COPY pyproject.toml README.md LICENSE /src/
COPY job /src/job
COPY tuning /src/tuning
COPY twofold /src/twofold
RUN python3 -m pip --python /opt/twofold/bin/python install --no-cache-dir --no-compile --no-deps --no-build-isolation --no-index \
        --root /installed /src \
    && /opt/twofold/bin/python -m compileall -q -f --invalidation-mode unchecked-hash -s /installed /installed

FROM ${BASE_IMAGE}
RUN python3 -m compileall -q -f -j 0 --invalidation-mode unchecked-hash -x '(site|dist)-packages|/tests?/' \
    "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
COPY --from=dependencies /opt/twofold /opt/twofold
RUN install -d -o 10001 -g 10001 /twofold
# Copied, not mounted: buildah does not look into a mount, and would keep an old program in its cache.
COPY --from=project /installed/opt/twofold /opt/twofold

# Keras, matplotlib and Ray write into their user's home: /tmp is the only folder that is theirs. The cache is worth keeping: it goes
# to where work is mounted.
# The driver comes from the node: by NVIDIA's container runtime, or mounted where GKE mounts it.
ENV PATH=/opt/twofold/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    KERAS_HOME=/tmp/keras \
    MPLCONFIGDIR=/tmp/matplotlib \
    RAY_TMPDIR=/tmp \
    XDG_CACHE_HOME=/twofold/cache \
    LD_LIBRARY_PATH=/usr/local/nvidia/lib64 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /twofold
USER 10001:10001

# Signals go to the job alone, which stops its own workers. On a terminal Ctrl-C reaches the job by itself: sent on as it is,
# it would come twice, and a second Ctrl-C leaves at once.
ENTRYPOINT ["dumb-init", "--single-child", "--rewrite", "2:15", "--", "twofold"]

ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="twofold" \
      org.opencontainers.image.description="A training job for image classifiers of two classes" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
