# One image for each binary: docker build --target server . (or proxy, or chaos).
#
# The base images are arguments, so that a mirror or a digest can be named without an edit. The runtime image holds
# the C library, libgcc and certificates, which is all that the binaries need; it has no shell and no package manager.
# The chaos suite starts databases of its own, so it builds on PostgreSQL's image.
ARG RUST_IMAGE=rust:1.95.0-bookworm
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot
ARG POSTGRES_IMAGE=postgres:17.6-bookworm

FROM ${RUST_IMAGE} AS source
WORKDIR /src
ENV CARGO_TERM_PROGRESS_WHEN=never
COPY . .
# Becomes the data folder, with its owner, in an image that cannot create folders itself.
RUN mkdir /empty

# Dependencies stay compiled in the cache mounts across builds. Each binary is built by itself, so that the features
# one of them needs do not reach the other.
FROM source AS build-server
ARG REVISION=
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    RIDETHROUGH_REVISION="${REVISION}" \
    cargo build --quiet --release --locked -p ridethrough-server --bin ridethrough-server \
    && install -D target/release/ridethrough-server /out/ridethrough-server

FROM source AS build-proxy
ARG REVISION=
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    RIDETHROUGH_REVISION="${REVISION}" \
    cargo build --quiet --release --locked -p ridethrough-proxy --bin ridethrough-proxy \
    && install -D target/release/ridethrough-proxy /out/ridethrough-proxy

FROM source AS build-chaos
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --quiet --release --locked -p ridethrough-chaos --bin ridethrough-chaos \
    && install -D target/release/ridethrough-chaos /out/ridethrough-chaos

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

# docker run --rm --read-only --tmpfs /tmp -v report:/report ridethrough-chaos
FROM ${POSTGRES_IMAGE} AS chaos
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="ridethrough-chaos" \
      org.opencontainers.image.description="Kills the database of a running service and proves what its users got" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.vendor="The Ridethrough authors" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY LICENSE-MIT LICENSE-APACHE /usr/share/doc/ridethrough/
# Its own stack is the default system under test, found beside the program.
COPY --from=build-chaos /out/ridethrough-chaos /usr/local/bin/ridethrough-chaos
COPY --from=build-server /out/ridethrough-server /usr/local/bin/ridethrough-server
COPY --from=build-proxy /out/ridethrough-proxy /usr/local/bin/ridethrough-proxy
COPY --from=source --chown=999:999 /empty /report
VOLUME ["/report"]
WORKDIR /report
# The number of the account `postgres` in that image: initdb wants a user with a name, and not root.
USER 999:999
ENV XDG_CACHE_HOME=/tmp
ENTRYPOINT ["/usr/local/bin/ridethrough-chaos"]
CMD ["demo", "--out", "/report"]
