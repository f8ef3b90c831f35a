# One image for every process of the Procfile; compose.yaml says which command each runs.
FROM python:3.13-slim
WORKDIR /app
COPY requirements.lock ./
RUN pip install --no-cache-dir --require-hashes -r requirements.lock
COPY . .
RUN pip install --no-cache-dir hatchling editables \
 && pip install --no-cache-dir --no-deps --no-build-isolation --editable . \
 && useradd --system --uid 10001 headrace
USER headrace
