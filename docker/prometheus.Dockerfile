# Prometheus from Debian's package, with the paths and the user of the published image, for places
# where that cannot be pulled.
ARG RUNTIME_IMAGE=debian:bookworm-slim@sha256:3783cc01769c7b2b1b83a5c5ad96c815348e28ed7da68e2e3687004faa906251
FROM ${RUNTIME_IMAGE}
RUN apt-get update -qq && \
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends prometheus && \
    rm -rf /var/lib/apt/lists/* /etc/prometheus/* /etc/default/prometheus && \
    install -d -o nobody -g nogroup /prometheus
LABEL org.opencontainers.image.title="conclave-prometheus" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 65534:65534
WORKDIR /prometheus
EXPOSE 9090
ENTRYPOINT ["prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
