package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	wire "cellward.dev/load/wire"
)

const (
	heartbeatEvery = 60 * time.Second
	statusLook     = 15 * time.Second
	statusAtLeast  = 300 * time.Second
	closing        = 10 * time.Second
	ackEvery       = 16
)

var both = &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}

// session is one Sync stream. Its lock is held while a frame is numbered and sent, so that their order is one.
type session struct {
	agent    *agent
	stream   grpc.ClientStream
	id       string
	lock     sync.Mutex
	sent     uint64
	received uint64
	acked    uint64
	last     time.Time // when a frame was sent
	flight   map[uint64]*wire.Receipt
	status   *wire.AgentStatus
	statusAt time.Time
	closed   bool
}

// runSession opens a stream and serves it to its end; the hub may say when to come again.
func (a *agent) runSession(ctx context.Context) (again time.Duration, synced bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := a.connection.NewStream(ctx, both, "/cellward.wire.v1.Link/Sync", grpc.WaitForReady(true))
	if err != nil {
		return 0, false, err
	}
	s := &session{agent: a, stream: stream, id: newUUID(), flight: map[uint64]*wire.Receipt{}}
	if err := s.send(&wire.AgentFrame{Body: &wire.AgentFrame_Hello{Hello: a.hello()}}); err != nil {
		return 0, false, err
	}
	defer func() {
		a.lock.Lock()
		defer a.lock.Unlock()
		if a.session == s {
			a.session = nil
		}
	}()
	for {
		frame := new(wire.HubFrame)
		if err := stream.RecvMsg(frame); err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return again, synced, err
		}
		if frame.StreamId != s.id || frame.Seq != s.received+1 {
			return 0, synced, fmt.Errorf("frame %d of stream %q where %d was expected", frame.Seq, frame.StreamId, s.received+1)
		}
		s.acknowledged(frame.Ack)
		switch body := frame.Body.(type) {
		case *wire.HubFrame_Refusal:
			return 0, synced, fmt.Errorf("%s: %s", body.Refusal.Code, body.Refusal.Reason)
		case *wire.HubFrame_Drain:
			low, high := int64(body.Drain.AfterMsMin), int64(body.Drain.AfterMsMax)
			again = time.Duration(low+mathrand.Int64N(max(1, high-low)))*time.Millisecond + 1
			s.lock.Lock()
			s.closed = true
			s.lock.Unlock()
			_ = stream.CloseSend()
			time.AfterFunc(closing, cancel)
		default:
			synced = s.handle(ctx, frame) || synced
		}
		s.lock.Lock()
		s.received = frame.Seq
		due := s.received-s.acked >= ackEvery
		s.lock.Unlock()
		if due || frame.GetHeartbeat().GetAnswer() {
			_ = s.beat()
		}
	}
}

// handle does what a frame asks for; true when it says that all items were sent.
func (s *session) handle(ctx context.Context, frame *wire.HubFrame) bool {
	a := s.agent
	switch body := frame.Body.(type) {
	case *wire.HubFrame_Welcome:
		s.welcomed(ctx, body.Welcome)
	case *wire.HubFrame_DesiredItem:
		item := body.DesiredItem
		a.lock.Lock()
		a.items[cellOf(item)] = item
		a.lock.Unlock()
		go a.carryOut(ctx, item)
		if item.Mark != nil {
			return a.reached(item.Mark)
		}
	case *wire.HubFrame_RevisionMark:
		return a.reached(body.RevisionMark)
	case *wire.HubFrame_PolicyNotice:
		a.lock.Lock()
		a.carried = body.PolicyNotice
		a.lock.Unlock()
		a.notice()
	}
	return false
}

// reached compares what is held with a mark; true when both sides hold the same.
func (a *agent) reached(mark *wire.RevisionMark) bool {
	a.lock.Lock()
	a.revision = mark.Revision
	same := a.itemsDigest() == mark.ItemsDigest
	a.lock.Unlock()
	if !same {
		emit("failed", a.name, "the items' digest is not the hub's")
		return false
	}
	emit("synced", a.name, "")
	return true
}

func (s *session) welcomed(ctx context.Context, welcome *wire.Welcome) {
	a := s.agent
	a.lock.Lock()
	if a.hubEpoch != welcome.HubEpoch {
		a.hubEpoch, a.revision = welcome.HubEpoch, 0
	}
	a.session = s
	reports := make([]*wire.CellStatus, 0, len(a.reports))
	for _, report := range a.reports {
		reports = append(reports, report)
	}
	receipts := make([]*wire.Receipt, 0, len(a.waiting))
	for _, receipt := range a.waiting {
		receipts = append(receipts, receipt)
	}
	timestamp := a.policy.Timestamp
	a.lock.Unlock()
	for _, report := range reports {
		_ = s.send(&wire.AgentFrame{Body: &wire.AgentFrame_CellStatus{CellStatus: report}})
	}
	_ = s.tellStatus()
	for _, receipt := range receipts {
		_ = s.sendReceipt(receipt)
	}
	if welcome.TimestampVersion != 0 && welcome.TimestampVersion != timestamp {
		a.notice()
	}
	go s.keepAlive(ctx)
}

// keepAlive sends a heartbeat when nothing else was sent for long, and the status when it changed.
func (s *session) keepAlive(ctx context.Context) {
	look := time.Now().Add(statusLook)
	for {
		s.lock.Lock()
		next := s.last.Add(heartbeatEvery)
		s.lock.Unlock()
		if !sleep(ctx, time.Until(earlier(next, look))) {
			return
		}
		if !time.Now().Before(look) {
			look = time.Now().Add(statusLook)
			_ = s.tellStatus()
		} else if s.silentFor() >= heartbeatEvery {
			_ = s.beat()
		}
	}
}

func earlier(one, other time.Time) time.Time {
	if one.Before(other) {
		return one
	}
	return other
}

func (s *session) silentFor() time.Duration {
	s.lock.Lock()
	defer s.lock.Unlock()
	return time.Since(s.last)
}

func (s *session) tellStatus() error {
	a := s.agent
	a.lock.Lock()
	status := &wire.AgentStatus{
		Conditions: []*wire.Condition{
			{Name: "audit-push", Ok: true}, {Name: "certificate", Ok: true}, {Name: "link", Ok: true},
		},
		Policy:     proto.CloneOf(a.policy),
		SpoolDepth: a.log.depth(),
		Authority:  "authors",
	}
	a.lock.Unlock()
	if s.status != nil && time.Since(s.statusAt) < statusAtLeast && proto.Equal(s.status, status) {
		return nil
	}
	s.status, s.statusAt = status, time.Now()
	return s.send(&wire.AgentFrame{Body: &wire.AgentFrame_AgentStatus{AgentStatus: status}})
}

func (s *session) beat() error {
	return s.send(&wire.AgentFrame{Body: &wire.AgentFrame_Heartbeat{Heartbeat: &wire.Heartbeat{}}})
}

func (s *session) sendReceipt(receipt *wire.Receipt) error {
	return s.sendCarrying(&wire.AgentFrame{Body: &wire.AgentFrame_Receipt{Receipt: receipt}}, receipt)
}

func (s *session) send(frame *wire.AgentFrame) error { return s.sendCarrying(frame, nil) }

func (s *session) sendCarrying(frame *wire.AgentFrame, receipt *wire.Receipt) error {
	s.lock.Lock()
	defer s.lock.Unlock()
	if s.closed {
		return io.EOF
	}
	s.sent++
	frame.StreamId, frame.Seq, frame.Ack, frame.SentAtUnixMs = s.id, s.sent, s.received, time.Now().UnixMilli()
	if receipt != nil {
		s.flight[s.sent] = receipt
	}
	s.acked, s.last = s.received, time.Now()
	return s.stream.SendMsg(frame)
}

// acknowledged drops what the hub has handled, and tells the parent of each receipt among it.
func (s *session) acknowledged(ack uint64) {
	s.lock.Lock()
	defer s.lock.Unlock()
	for seq, receipt := range s.flight {
		if seq > ack {
			continue
		}
		delete(s.flight, seq)
		s.agent.lock.Lock()
		if key := cellOf(receipt); s.agent.waiting[key] == receipt {
			delete(s.agent.waiting, key)
		}
		s.agent.lock.Unlock()
		emit("acked", s.agent.name, receipt.DeploymentDigest)
	}
}

func (a *agent) hello() *wire.Hello {
	a.lock.Lock()
	defer a.lock.Unlock()
	return &wire.Hello{
		ProtocolMin: 1, ProtocolMax: 1, Features: features, Realm: a.Realm, BootId: a.bootID, Epoch: 1,
		Generation: a.certificate.Generation, Revision: a.revision, HubEpoch: a.hubEpoch, ItemsDigest: a.itemsDigest(),
		FloorsDigest: digestOf(nil),
		Facts: &wire.ClusterFacts{
			Uid: a.uid, Environments: []string{a.Environment}, Region: "bench", Projects: []string{"*"},
		},
		Policy: proto.CloneOf(a.policy), AgentVersion: "0.0.0-load", StatementKeyid: a.keyid,
	}
}

// itemsDigest is cellward.wire.codec.items_digest; the lock is held.
func (a *agent) itemsDigest() string {
	rows := make([][]any, 0, len(a.items))
	for _, item := range a.items {
		evidence := slices.Clone(item.Evidence)
		if evidence == nil {
			evidence = []string{}
		}
		slices.Sort(evidence)
		rows = append(rows, []any{item.Project, item.Cell, item.Environment, item.DeploymentDigest, evidence, stateOf(item)})
	}
	slices.SortFunc(rows, func(one, other []any) int {
		for i := range 3 {
			if order := strings.Compare(one[i].(string), other[i].(string)); order != 0 {
				return order
			}
		}
		return 0
	})
	return digestOf(canonical(map[string]any{"items": rows, "schema": "cellward.items/v1"}))
}

func stateOf(item *wire.DesiredItem) string {
	switch item.HubState {
	case wire.HubState_HUB_STATE_UNSPECIFIED, wire.HubState_HUB_STATE_RUN:
		return "run"
	case wire.HubState_HUB_STATE_QUARANTINE:
		return "quarantine"
	}
	return "hold"
}

// cellOf is the key of what an item or a receipt is about.
func cellOf(of interface {
	GetProject() string
	GetCell() string
	GetEnvironment() string
}) string {
	return of.GetProject() + "/" + of.GetCell() + "/" + of.GetEnvironment()
}
