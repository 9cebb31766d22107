# As python/Dockerfile. The NVIDIA container runtime puts the driver's libraries in; CUDA itself comes with the wheels that need it.
ARG BASE
FROM ${BASE}
ARG PACKAGES=""
COPY setup.sh /tmp/setup.sh
RUN sh /tmp/setup.sh "${PACKAGES}" && rm /tmp/setup.sh
COPY uv /usr/local/bin/uv
ENV HOME=/home/user LANG=C.UTF-8 PYTHONUNBUFFERED=1 UV_PYTHON_DOWNLOADS=never NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /home/user/app
USER 1000:1000
