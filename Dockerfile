# One image for the web service (`serve`) and for the cron service (`racealpha rebuild`).
# DuckDB, which takes most of the build, is compiled with the dependencies in a layer of its own: it is made again only
# when Cargo.toml or Cargo.lock changes.
FROM rust:1-bookworm AS build
WORKDIR /build
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
# Cargo wants every target of Cargo.toml to exist; empty ones do for the dependencies.
RUN mkdir -p src benches tests/it tests/codec \
    && echo 'fn main() {}' | tee src/main.rs benches/copy_decode.rs benches/copy_encode.rs benches/parquet_write.rs benches/run_phases.rs tests/it/main.rs tests/codec/main.rs >/dev/null \
    && touch src/lib.rs README.md \
    && cargo build --release --locked --bin racealpha \
    && rm -rf src benches tests
COPY . .
# Newer than the empty files above, whatever the times in the context are.
RUN touch src/main.rs src/lib.rs && cargo build --release --locked --bin racealpha \
    && strip --strip-debug target/release/racealpha

FROM debian:bookworm-slim
# Roots for TLS; zones for schedules are inside the binary; curl is for the health check. setpriv comes with the image.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates curl \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home racealpha \
    && install --directory --owner racealpha /lake
COPY --from=build /build/target/release/racealpha /usr/local/bin/racealpha
COPY script/container /usr/local/bin/container
WORKDIR /home/racealpha
# A volume goes here.
ENV RACEALPHA_LAKE=/lake PORT=8000
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s CMD curl --fail --silent "http://localhost:${PORT}/healthz"
# Starts as root because volumes come owned by root; gives the lake to racealpha and goes on as racealpha.
ENTRYPOINT ["container"]
CMD ["serve"]
