package main

import (
	"io"
	"net"
	"time"
)

const (
	// How long one connection is answered, and how much of it.
	served     = 5 * time.Second
	mostServed = 1024
	// Connections at once; more wait in the kernel.
	connections = 64
)

// responder answers on one port, TCP and UDP.
type responder struct {
	stream net.Listener
	packet net.PacketConn
}

func listen(address string) (*responder, error) {
	stream, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	packet, err := net.ListenPacket("udp", stream.Addr().String())
	if err != nil {
		stream.Close()
		return nil, err
	}
	one := &responder{stream, packet}
	go one.accept()
	go one.answer()
	return one, nil
}

func (r *responder) close() {
	r.stream.Close()
	r.packet.Close()
}

func (r *responder) accept() {
	places := make(chan struct{}, connections)
	for {
		places <- struct{}{}
		connection, err := r.stream.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { <-places }()
			defer connection.Close()
			if connection.SetDeadline(time.Now().Add(served)) == nil {
				io.CopyN(connection, connection, mostServed)
			}
		}()
	}
}

// answer sends each packet back: never more than came, so that nobody is amplified.
func (r *responder) answer() {
	packet := make([]byte, mostServed)
	for {
		n, from, err := r.packet.ReadFrom(packet)
		if err != nil {
			return
		}
		r.packet.WriteTo(packet[:n], from)
	}
}
