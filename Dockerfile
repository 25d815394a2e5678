# The README's commands in a container, on the CPU.
#   docker build -t qdbev .
#   docker run --rm -it -v "$PWD/runs:/qdbev/runs" -v qdbev-cache:/cache qdbev make demo QUICK=1
#   docker run --rm -it -v /data/nuscenes:/data/nuscenes qdbev qdbev data prepare --root /data/nuscenes
# For a GPU, start from an image with CUDA, its nvcc and Python 3.11 or 3.12, and run with --gpus all.
FROM python:3.11-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ git make \
    && rm -rf /var/lib/apt/lists/*
ENV QDBEV_CACHE=/cache
WORKDIR /qdbev
COPY . .
RUN make setup && rm -rf ~/.cache/pip
ENV PATH="/qdbev/.venv/bin:$PATH" MPLBACKEND=Agg
CMD ["qdbev", "--help"]
