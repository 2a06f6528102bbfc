package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// Sizes of the floor's messages, bytes; bench/floor.py has the same.
const (
	floorItem    = 600
	floorReceipt = 400
)

// raw is a codec for messages that are bytes already.
type raw struct{}

func (raw) Marshal(value any) ([]byte, error) { return *value.(*[]byte), nil }

func (raw) Unmarshal(data []byte, value any) error {
	*value.(*[]byte) = append((*value.(*[]byte))[:0], data...)
	return nil
}

func (raw) Name() string { return "raw" }

// prepareFloor makes connections to a bare server: item, receipt, acknowledgement, and nothing else.
func prepareFloor(wanted *task, names []string) (func(context.Context), error) {
	pair, err := tls.LoadX509KeyPair(wanted.Certificate, wanted.Key)
	if err != nil {
		return nil, err
	}
	pool, err := pool(wanted.HubCA)
	if err != nil {
		return nil, err
	}
	config := tlsConfig(pool, "localhost")
	config.Certificates = []tls.Certificate{pair}
	return func(ctx context.Context) {
		for _, name := range names {
			go func() {
				if err := floorClient(ctx, wanted.Address, config, name); err != nil {
					emit("failed", name, err.Error())
				}
			}()
		}
	}, nil
}

func floorClient(ctx context.Context, address string, config *tls.Config, name string) error {
	connection, err := dial(address, credentials.NewTLS(config))
	if err != nil {
		return err
	}
	defer func() { _ = connection.Close() }()
	description := &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}
	stream, err := connection.NewStream(ctx, description, "/floor.Floor/Sync", grpc.ForceCodec(raw{}), grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	hello, receipt := []byte("hello"), make([]byte, floorReceipt)
	if err := stream.SendMsg(&hello); err != nil {
		return err
	}
	var message []byte
	if err := stream.RecvMsg(&message); err != nil {
		return err
	}
	emit("joined", name, "")
	emit("synced", name, "")
	for round := 0; ; {
		if err := stream.RecvMsg(&message); err != nil {
			return err
		}
		if len(message) == floorItem {
			if err := stream.SendMsg(&receipt); err != nil {
				return err
			}
			continue
		}
		round++
		emit("acked", name, strconv.Itoa(round))
	}
}

func pool(file string) (*x509.CertPool, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return poolOf(data)
}

func poolOf(data []byte) (*x509.CertPool, error) {
	found := x509.NewCertPool()
	if !found.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("no certificate authority in %d bytes", len(data))
	}
	return found, nil
}
