package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/proto"

	wire "cellward.dev/load/wire"
)

const (
	hubName = "hub.cellward.internal"
	// What the agent's channels have too (agent/link/channels.py).
	keepaliveTime, keepaliveTimeout = 18 * time.Second, 10 * time.Second
	firstRetry, lastRetry           = 250 * time.Millisecond, 3 * time.Second
	// The agent's own back-off between sessions.
	backoffBase, backoffCap = 500 * time.Millisecond, 30 * time.Second
)

// common is what all agents share.
type common struct {
	*task
	metrics *wire.MetricsBatch // nil for none
	pool    *x509.CertPool
}

// agent is one cluster's agent. What the session and its helpers share is behind the lock.
type agent struct {
	*common
	name, uid, bootID, token string
	key                      *ecdsa.PrivateKey
	statement                ed25519.PrivateKey
	statementSPKI            []byte
	keyid                    string
	certificate              *wire.JoinResponse
	connection               *grpc.ClientConn

	lock     sync.Mutex
	session  *session // the live one, or nil
	items    map[string]*wire.DesiredItem
	reports  map[string]*wire.CellStatus
	waiting  map[string]*wire.Receipt // by cell: not acknowledged yet
	revision uint64
	hubEpoch string
	policy   *wire.PolicyVersions
	held     map[string]bool // digests of bundles
	noticed  chan struct{}
	carried  *wire.PolicyNotice // the newest one with files, until they are taken
	log      *chain
}

func prepareAgents(wanted *task, names []string) (func(context.Context), error) {
	shared := &common{task: wanted}
	var err error
	if shared.pool, err = pool(wanted.HubCA); err != nil {
		return nil, err
	}
	if wanted.Metrics != "" {
		data, err := os.ReadFile(wanted.Metrics)
		if err != nil {
			return nil, err
		}
		shared.metrics = new(wire.MetricsBatch)
		if err := proto.Unmarshal(data, shared.metrics); err != nil {
			return nil, err
		}
	}
	agents := make([]*agent, 0, len(names))
	for _, name := range names {
		one, err := newAgent(shared, name)
		if err != nil {
			return nil, err
		}
		agents = append(agents, one)
	}
	return func(ctx context.Context) {
		for _, one := range agents {
			go one.run(ctx)
		}
	}, nil
}

func newAgent(shared *common, name string) (*agent, error) {
	token, err := os.ReadFile(filepath.Join(shared.Directory, name, "join-token"))
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	public, statement, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(spki)
	one := &agent{
		common: shared, name: name, uid: newUUID(), bootID: newUUID(), token: strings.TrimSpace(string(token)),
		key: key, statement: statement, statementSPKI: spki, keyid: hex.EncodeToString(digest[:]),
		items: map[string]*wire.DesiredItem{}, reports: map[string]*wire.CellStatus{},
		waiting: map[string]*wire.Receipt{}, held: map[string]bool{}, noticed: make(chan struct{}, 1),
		policy: &wire.PolicyVersions{Root: 1},
	}
	one.log = newChain(one)
	return one, nil
}

// run joins, opens the link, and keeps it open until the context ends.
func (a *agent) run(ctx context.Context) {
	for wait := newBackoff(); ; {
		err := a.join(ctx)
		if err == nil {
			break
		}
		emit("failed", a.name, "join: "+err.Error())
		if !wait.sleep(ctx) {
			return
		}
	}
	emit("joined", a.name, "")
	if err := a.open(); err != nil {
		emit("failed", a.name, err.Error())
		return
	}
	go a.followPolicy(ctx)
	if a.metrics != nil {
		go a.pushMetrics(ctx)
	}
	if a.PushAudit == "yes" {
		go a.log.push(ctx)
	}
	a.keepSessions(ctx)
}

func (a *agent) keepSessions(ctx context.Context) {
	wait := newBackoff()
	for ctx.Err() == nil {
		again, synced, err := a.runSession(ctx)
		if err != nil && strings.Contains(err.Error(), " is locked") {
			emit("cut", a.name, "locked")
			return
		}
		if synced {
			wait.reset()
		}
		if again > 0 {
			if !sleep(ctx, again) {
				return
			}
			continue
		}
		if err != nil && !strings.Contains(err.Error(), "Unavailable") {
			emit("failed", a.name, "session: "+err.Error())
		}
		if !wait.sleep(ctx) {
			return
		}
	}
}

// join spends the token, on a connection of its own as a real agent does.
func (a *agent) join(ctx context.Context) error {
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{}}, a.key)
	if err != nil {
		return err
	}
	connection, err := dial(a.Enrolment, credentials.NewTLS(tlsConfig(a.pool, hubName)))
	if err != nil {
		return err
	}
	defer func() { _ = connection.Close() }()
	limited, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	answer := new(wire.JoinResponse)
	err = connection.Invoke(limited, "/cellward.wire.v1.Enrolment/Join", &wire.JoinRequest{
		Token: a.token, CsrDer: request, Realm: a.Realm, ClusterUid: a.uid, StatementSpkiDer: a.statementSPKI,
	}, answer, grpc.WaitForReady(true))
	if err == nil {
		a.certificate = answer
	}
	return err
}

// open makes the agent's one connection to the link; gRPC dials it again when it breaks.
func (a *agent) open() error {
	der, err := x509.MarshalECPrivateKey(a.key)
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair([]byte(a.certificate.CertificateChainPem), pemOf("EC PRIVATE KEY", der))
	if err != nil {
		return err
	}
	authorities, err := poolOf([]byte(a.certificate.HubCaPem))
	if err != nil {
		return err
	}
	config := tlsConfig(authorities, hubName)
	config.Certificates = []tls.Certificate{pair}
	a.connection, err = dial(a.certificate.LinkAddress, credentials.NewTLS(config))
	return err
}

func tlsConfig(authorities *x509.CertPool, name string) *tls.Config {
	return &tls.Config{RootCAs: authorities, ServerName: name, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}}
}

func dial(address string, secure credentials.TransportCredentials) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(secure),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: firstRetry, Multiplier: 1.6, Jitter: 0.2, MaxDelay: lastRetry},
			MinConnectTimeout: 20 * time.Second,
		}),
		// A thousand connections in one process: what is kept for each is small, and none looks for a proxy.
		grpc.WithReadBufferSize(4096), grpc.WithWriteBufferSize(4096), grpc.WithSharedWriteBuffer(true),
		// Windows of one size: to find a better one a client pings, and the server ends whoever pings often.
		grpc.WithStaticStreamWindowSize(1<<16), grpc.WithStaticConnWindowSize(1<<17),
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(),
	)
}

// retry is a full-jitter back-off.
type retry struct{ bound time.Duration }

func newBackoff() *retry { return &retry{backoffBase} }

func (r *retry) reset() { r.bound = backoffBase }

func (r *retry) sleep(ctx context.Context) bool {
	delay := time.Duration(mathrand.Int64N(int64(r.bound)) + 1)
	r.bound = min(2*r.bound, backoffCap)
	return sleep(ctx, delay)
}

// sleep waits; false when the context ended first.
func sleep(ctx context.Context, delay time.Duration) bool {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

func newUUID() string {
	var data [16]byte
	_, _ = rand.Read(data[:])
	data[6], data[8] = data[6]&0x0f|0x40, data[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", data[:4], data[4:6], data[6:8], data[8:10], data[10:])
}
