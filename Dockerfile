# The images of hub, agent and prober where there is an engine and a registry: `docker build --target agent .`
# `make images` makes the same trees without either (docs/how-to/make-the-images.md). `make pin-images` writes digests
# behind the tags. Python has to be 3.11 in both: bytecode is of one version.
ARG BUILD=docker.io/library/python:3.11-slim-bookworm
ARG RUN=gcr.io/distroless/python3-debian12:nonroot
ARG GO=docker.io/library/golang:1.26-bookworm
ARG OPA=docker.io/openpolicyagent/opa:1.22.2-static

FROM ${OPA} AS opa

FROM ${GO} AS prober-tree
COPY prober /src/prober
WORKDIR /src/prober
RUN CGO_ENABLED=0 go build -mod=readonly -trimpath -buildvcs=false "-ldflags=-s -w" -o /prober .

FROM ${BUILD} AS build
COPY requirements /src/requirements
COPY tools/image/finish.py /src/finish.py

FROM build AS hub-tree
RUN python3 -m pip install --no-cache-dir --no-compile --no-deps --require-hashes --only-binary :all: \
    --target /opt/cellward/lib --requirement /src/requirements/hub.txt
COPY cellward /opt/cellward/lib/cellward
COPY hub /opt/cellward/lib/hub
RUN PYTHONHASHSEED=0 python3 /src/finish.py hub /opt/cellward

FROM build AS agent-tree
RUN python3 -m pip install --no-cache-dir --no-compile --no-deps --require-hashes --only-binary :all: \
    --target /opt/cellward/lib --requirement /src/requirements/agent.txt
COPY cellward /opt/cellward/lib/cellward
COPY agent /opt/cellward/lib/agent
RUN PYTHONHASHSEED=0 python3 /src/finish.py agent /opt/cellward
COPY --from=opa /opa /opt/cellward/bin/opa
COPY --from=prober-tree /prober /opt/cellward/bin/prober

FROM ${RUN} AS hub
ARG VERSION=0.1.0.dev0
LABEL org.opencontainers.image.title="cellward-hub" \
      org.opencontainers.image.description="The Cellward control plane." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=hub-tree /opt/cellward /opt/cellward
ENV PATH=/opt/cellward/bin:/usr/bin SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
WORKDIR /
USER 65532:65532
ENTRYPOINT ["cellward-hub"]

FROM ${RUN} AS agent
ARG VERSION=0.1.0.dev0
LABEL org.opencontainers.image.title="cellward-agent" \
      org.opencontainers.image.description="The Cellward agent of one cluster, with its policy engine and its prober." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=agent-tree /opt/cellward /opt/cellward
ENV PATH=/opt/cellward/bin:/usr/bin SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
WORKDIR /
USER 65532:65532
ENTRYPOINT ["cellward-agent"]

FROM scratch AS prober
ARG VERSION=0.1.0.dev0
LABEL org.opencontainers.image.title="cellward-prober" \
      org.opencontainers.image.description="Measures from inside a cell which packets get through." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=prober-tree /prober /opt/cellward/bin/prober
WORKDIR /
USER 65532:65532
ENTRYPOINT ["/opt/cellward/bin/prober"]
