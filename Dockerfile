# The release binary on a small Debian, as a user without rights.
#
#   docker build -t pgweir .
#   docker run -p 6432:6432 -v ./etc:/etc/pgweir:ro pgweir
#
# ./etc has pgweir.toml and what it names: the auth_file, certificates. A relative name in it is looked for beside it. The
# container's user has to be able to read them. The configuration has to listen on every address (listen_addr = "*") to be reached from outside the container, and
# http_listen has to be "0.0.0.0:9127" (or "127.0.0.1:9127", for the health check alone).
FROM rust:1.95-bookworm AS build
# The SQL parser is C behind bindgen.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libclang-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --release --bin pgweir \
    && cp target/release/pgweir /usr/local/bin/pgweir

FROM debian:bookworm-slim
RUN useradd --system --no-create-home --shell /usr/sbin/nologin pgweir
COPY --from=build /usr/local/bin/pgweir /usr/local/bin/pgweir
USER pgweir
EXPOSE 6432 9127
# SIGTERM lets transactions end before the process does.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 \
    CMD ["pgweir", "healthcheck", "--url", "http://127.0.0.1:9127/health/live"]
ENTRYPOINT ["pgweir"]
CMD ["/etc/pgweir/pgweir.toml"]
