# As python/Dockerfile. The NVIDIA container runtime puts the driver's libraries in, those of the capabilities named here; CUDA itself comes
# with the wheels that need it. Which cards a container gets is said when it starts: "void" is none, also where that runtime is the usual one.
ARG BASE
FROM ${BASE}
ARG PACKAGES=""
COPY uv /usr/local/bin/uv
COPY setup.sh /tmp/setup.sh
RUN sh /tmp/setup.sh "${PACKAGES}" && rm /tmp/setup.sh
ENV HOME=/home/user LANG=C.UTF-8 PYTHONUNBUFFERED=1 UV_PYTHON_DOWNLOADS=never NVIDIA_VISIBLE_DEVICES=void NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /home/user/app
USER 1000:1000
