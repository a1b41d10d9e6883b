# finetune in a container, on the processor or on NVIDIA GPUs (docs/docker.md):
#   docker build -t finetune .
#   docker build -t finetune:cuda --build-arg DEVICE=cuda .
#   docker run --rm -v "$PWD:/work" -v finetune-cache:/cache finetune train recipe.yaml

ARG PYTHON=3.11.13-slim-bookworm
ARG DEVICE=cpu

# torch alone, because it is large and changes seldom. A DEVICE that is neither cpu nor cuda names no stage.
FROM python:${PYTHON} AS environment
WORKDIR /src
COPY constraints.txt ./
RUN python -m venv /opt/finetune
ENV PATH="/opt/finetune/bin:${PATH}"

FROM environment AS torch-cpu
ARG CPU_WHEELS=https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir -c constraints.txt --extra-index-url "${CPU_WHEELS}" torch

FROM environment AS torch-cuda
RUN pip install --no-cache-dir -c constraints.txt torch

# A stage of this file, which has no tag:
# hadolint ignore=DL3006
FROM torch-${DEVICE} AS build
WORKDIR /src
ARG EXTRAS=offline
COPY pyproject.toml README.md LICENSE ./
COPY finetune ./finetune
RUN pip install --no-cache-dir -c constraints.txt ".[${EXTRAS}]"

FROM python:${PYTHON} AS final
RUN groupadd --gid 1000 finetune && useradd --uid 1000 --gid 1000 --create-home finetune
# Anybody may write there, so that --user "$(id -u):$(id -g)" works and new files belong to the one who runs it.
RUN mkdir -p /cache/huggingface /cache/matplotlib /work && chmod -R 1777 /cache /work
COPY --from=build /opt/finetune /opt/finetune
ENV PATH="/opt/finetune/bin:${PATH}" \
    HOME=/home/finetune \
    HF_HOME=/cache/huggingface \
    MPLCONFIGDIR=/cache/matplotlib \
    XDG_CACHE_HOME=/cache
USER 1000:1000
WORKDIR /work
VOLUME ["/cache", "/work"]
# Offline: a container without a network is well, too.
HEALTHCHECK --interval=10m --timeout=2m --start-period=1m --retries=2 \
    CMD ["env", "HF_HUB_OFFLINE=1", "finetune", "doctor", "--quiet"]
ENTRYPOINT ["finetune"]
CMD ["--help"]
