# One image for each binary: docker build --target server . (or --target proxy).
#
# The base images are arguments, so that a mirror or a digest can be named without an edit. The runtime image holds
# the C library, libgcc and certificates, which is all that the binaries need; it has no shell and no package manager.
ARG RUST_IMAGE=rust:1.95.0-bookworm
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${RUST_IMAGE} AS source
WORKDIR /src
ENV CARGO_TERM_PROGRESS_WHEN=never
COPY . .
# Becomes the data folder, with its owner, in an image that cannot create folders itself.
RUN mkdir /empty

# Dependencies stay compiled in the cache mounts across builds. Each binary is built by itself, so that the features
# one of them needs do not reach the other.
FROM source AS build-server
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --quiet --release --locked -p ridethrough-server --bin ridethrough-server \
    && install -D target/release/ridethrough-server /out/ridethrough-server

FROM source AS build-proxy
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --quiet --release --locked -p ridethrough-proxy --bin ridethrough-proxy \
    && install -D target/release/ridethrough-proxy /out/ridethrough-proxy

FROM ${RUNTIME_IMAGE} AS runtime
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.vendor="The Ridethrough authors" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY LICENSE-MIT LICENSE-APACHE /usr/share/doc/ridethrough/
# A number, so that Kubernetes can see that it is not root.
USER 65532:65532
EXPOSE 8080 9090

FROM runtime AS server
LABEL org.opencontainers.image.title="ridethrough-server" \
      org.opencontainers.image.description="A todo service that keeps answering while its PostgreSQL is away"
COPY --from=build-server /out/ridethrough-server /usr/local/bin/ridethrough-server
# The journal of acknowledged writes lives here: losing the volume is losing them.
COPY --from=source --chown=65532:65532 /empty /var/lib/ridethrough
VOLUME ["/var/lib/ridethrough"]
ENV RIDETHROUGH_SERVER__LISTEN=0.0.0.0:8080 \
    RIDETHROUGH_SERVER__ADMIN_LISTEN=0.0.0.0:9090 \
    RIDETHROUGH_SERVER__DATA_DIR=/var/lib/ridethrough \
    RIDETHROUGH_LOG__FORMAT=json
ENTRYPOINT ["/usr/local/bin/ridethrough-server"]

FROM runtime AS proxy
LABEL org.opencontainers.image.title="ridethrough-proxy" \
      org.opencontainers.image.description="Reverse proxy that always shows people a useful page"
COPY --from=build-proxy /out/ridethrough-proxy /usr/local/bin/ridethrough-proxy
ENV RIDETHROUGH_PROXY__LISTEN=0.0.0.0:8080 \
    RIDETHROUGH_PROXY__ADMIN_LISTEN=0.0.0.0:9090 \
    RIDETHROUGH_PROXY__LOG_FORMAT=json
ENTRYPOINT ["/usr/local/bin/ridethrough-proxy"]
