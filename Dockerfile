# icehouse in a container: the server by default, any command of `icehouse` by name.
#   docker build -t icehouse .                          CPU
#   docker build -t icehouse --build-arg FAISS=gpu .    CUDA (run with --gpus all)
# The store is mounted at /store; model weights are kept in the volume /cache.
FROM python:3.12-slim

ARG FAISS=cpu
ENV PYTHONUNBUFFERED=1 HF_HOME=/cache/huggingface TORCH_HOME=/cache/torch XDG_CACHE_HOME=/cache ICEHOUSE_STORE=/store

# LightGBM's OpenMP; the slim image has none.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*

RUN groupadd --gid 1000 icehouse && useradd --uid 1000 --gid icehouse --create-home icehouse \
    && mkdir /cache /store && chown icehouse:icehouse /cache /store

WORKDIR /app
COPY . .
RUN pip install --no-cache-dir --constraint constraints.txt ".[${FAISS},mini,heic,serve,watch,kafka]"

USER 1000:1000
WORKDIR /home/icehouse
VOLUME ["/cache", "/store"]
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["icehouse"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000", "--allow-host", "*"]
