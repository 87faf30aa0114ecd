# One image for api and worker; docker-compose.yml gives each its command and its health check.
FROM python:3.12-slim

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /src

# Where torch comes from. Empty: PyPI, whose Linux x86-64 wheel brings several GB of CUDA libraries along.
# https://download.pytorch.org/whl/cpu has the same version for CPUs only, which is all that the service uses.
ARG TORCH_INDEX_URL=""

# Dependencies first, from the pins alone: this big layer stays cached until pyproject.toml changes.
COPY pyproject.toml ./
RUN python -c 'import pathlib, tomllib; \
project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]; \
print("\n".join(project["dependencies"] + project["optional-dependencies"]["minilm"]))' > requirements.txt \
    && if [ -n "$TORCH_INDEX_URL" ]; then \
           pip install --no-deps --index-url "$TORCH_INDEX_URL" "$(grep '^torch==' requirements.txt)"; \
       fi \
    && pip install -r requirements.txt

# Then the code, in a layer of a few hundred kB. What is copied is listed in .dockerignore.
COPY . .
RUN pip install --no-deps . && useradd --uid 10001 --create-home app

# Python looks in the working directory first: mount a folder of your own plugins here.
WORKDIR /app
# Where the adjuster's compiled loops are kept, whoever runs the container.
ENV NUMBA_CACHE_DIR=/tmp/numba MPLCONFIGDIR=/tmp/matplotlib

USER 10001:10001

EXPOSE 5000
CMD ["python", "-m", "improvement", "serve", "--host", "0.0.0.0", "--port", "5000"]
