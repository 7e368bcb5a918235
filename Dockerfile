# The server in a plain container, for a host of your own or one that rents GPUs; docs/deploy-modal.md says when.
#
#   docker build -t game-stt .                                             Whisper base on a CPU
#   docker build -t game-stt --build-arg DEVICE=cuda \
#     --build-arg MODEL=large-v3-turbo@0a363e9161cbc7ed1431c9597a8ceaf0c4f78fcf .
#   docker run --rm --read-only --tmpfs /tmp -p 8018:8018 -e STT_TOKEN=SECRET game-stt      with a GPU: --gpus all
#
# Every setting is a variable: -e STT_LANGUAGE=en. It needs no CUDA image: cuBLAS is in the lock, the driver is the host's.

FROM python:3.12.10-slim-bookworm AS packages
COPY locks/container.txt /locks/container.txt
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir --require-hashes -r /locks/container.txt

# The weights, unpacked or fetched, and for a CPU prepared, so that nothing is written or downloaded at run time.
FROM packages AS model
ARG MODEL=base
ARG DEVICE=cpu
ENV STT_MODEL=$MODEL STT_DEVICE=$DEVICE STT_CACHE_DIR=/model/cache HF_HOME=/model/hub
WORKDIR /app
COPY stt_core stt_core
RUN mkdir -p /model/cache /model/hub && /venv/bin/python -c "import os; \
from stt_core.settings import Settings; from stt_core.transcriber import build_engine; \
settings = Settings.from_environment(os.environ); engine = build_engine(settings); \
engine.fetch() if settings.device == 'cuda' else engine.load()"

FROM python:3.12.10-slim-bookworm
ARG MODEL=base
ARG DEVICE=cpu
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    STT_HOST=0.0.0.0 STT_PORT=8018 STT_MODEL=$MODEL STT_DEVICE=$DEVICE STT_CACHE_DIR=/model/cache \
    HF_HOME=/model/hub HF_HUB_OFFLINE=1
COPY --from=packages /venv /venv
COPY --from=model /model /model
WORKDIR /app
COPY stt_core stt_core
COPY local_dev local_dev
USER 10001:10001
EXPOSE 8018
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["/venv/bin/python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"STT_PORT\"]}/readyz', timeout=4)"]
CMD ["/venv/bin/python", "-m", "local_dev"]
