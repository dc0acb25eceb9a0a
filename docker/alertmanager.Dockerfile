# Alertmanager from Debian's package, for places where the published image cannot be pulled.
ARG RUNTIME_IMAGE=debian:bookworm-slim@sha256:3783cc01769c7b2b1b83a5c5ad96c815348e28ed7da68e2e3687004faa906251
FROM ${RUNTIME_IMAGE}
RUN apt-get update -qq && \
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends prometheus-alertmanager && \
    rm -rf /var/lib/apt/lists/* /etc/prometheus/* /etc/default/prometheus-alertmanager && \
    install -d -o nobody -g nogroup /alertmanager
LABEL org.opencontainers.image.title="conclave-alertmanager" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 65534:65534
WORKDIR /alertmanager
EXPOSE 9093
ENTRYPOINT ["prometheus-alertmanager"]
CMD ["--config.file=/etc/alertmanager/alertmanager.yml", "--storage.path=/alertmanager"]
