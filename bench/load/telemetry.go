package main

import (
	"context"
	"fmt"
	mathrand "math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	wire "cellward.dev/load/wire"
)

const (
	auditEvery = time.Second
	noRecord   = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
)

// chain is an agent's audit log: records linked by their digests, pushed in order until the hub has them.
type chain struct {
	agent *agent
	lock  sync.Mutex
	next  uint64
	prev  string
	spool [][]byte // not acknowledged yet, ending with number next-1
	size  uint64   // of the hub's log when it acknowledged last
	woken chan struct{}
}

func newChain(a *agent) *chain {
	return &chain{agent: a, next: 1, prev: noRecord, woken: make(chan struct{}, 1)}
}

// record appends to the chain.
func (c *chain) record(action, object, decision string, revision uint64, details map[string]string) {
	if c.agent.PushAudit != "yes" {
		return
	}
	c.lock.Lock()
	defer c.lock.Unlock()
	origin := "agent:" + c.agent.uid
	data := canonical(map[string]any{
		"action": action, "actor": origin, "cluster": c.agent.name, "code": "", "correlationId": "", "decision": decision,
		"details": details, "epoch": 1, "logRoot": "", "logSize": 0, "object": object, "origin": origin, "prev": c.prev,
		"realm": c.agent.Realm, "reason": "", "revision": revision, "rule": "", "schema": "cellward.audit/v1",
		"seq": c.next, "time": time.Now().UTC().Format("2006-01-02T15:04:05.000Z"),
	})
	c.spool, c.prev, c.next = append(c.spool, data), digestOf(data), c.next+1
	select {
	case c.woken <- struct{}{}:
	default:
	}
}

func (c *chain) depth() uint64 {
	c.lock.Lock()
	defer c.lock.Unlock()
	return uint64(len(c.spool))
}

// push sends what is recorded, within a second of it as a real agent does, on one stream while that lives.
func (c *chain) push(ctx context.Context) {
	wait := newBackoff()
	var stream grpc.ClientStream
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.woken:
		}
		// A real agent looks once a second, each at its own moment.
		if !sleep(ctx, time.Duration(mathrand.Int64N(int64(auditEvery)))) {
			return
		}
		for c.depth() > 0 {
			var err error
			if stream, err = c.pushOnce(ctx, stream); err != nil {
				stream = nil
				if strings.Contains(err.Error(), " is locked") || !wait.sleep(ctx) {
					return
				}
				continue
			}
			wait.reset()
		}
	}
}

func (c *chain) pushOnce(ctx context.Context, stream grpc.ClientStream) (grpc.ClientStream, error) {
	if stream == nil {
		var err error
		stream, err = c.agent.connection.NewStream(ctx, both, "/cellward.wire.v1.Telemetry/PushAudit", grpc.WaitForReady(true))
		if err != nil {
			return nil, err
		}
	}
	c.lock.Lock()
	records, last, head, known := c.spool, c.next-1, c.prev, c.size
	c.lock.Unlock()
	batch := &wire.AuditBatch{
		Epoch: 1, FirstSeq: last - uint64(len(records)) + 1, Records: records, KnownTreeSize: known,
		Checkpoint: c.agent.sign(checkpointType, map[string]any{
			"schema": "cellward.audit-checkpoint/v1", "realm": c.agent.Realm, "uid": c.agent.uid, "epoch": 1, "seq": last,
			"head": head,
		}),
	}
	if err := stream.SendMsg(batch); err != nil {
		return nil, err
	}
	ack := new(wire.AuditAck)
	if err := stream.RecvMsg(ack); err != nil {
		return nil, err
	}
	if ack.RefusedCode != "" || ack.Seq < batch.FirstSeq || ack.Seq > last {
		err := fmt.Errorf("audit records %d to %d: %s, %d acknowledged", batch.FirstSeq, last, ack.RefusedCode, ack.Seq)
		emit("failed", c.agent.name, err.Error())
		return nil, err
	}
	c.lock.Lock()
	defer c.lock.Unlock()
	c.spool = c.spool[ack.Seq-batch.FirstSeq+1:]
	c.size = treeSize(ack.Checkpoint)
	return stream, nil
}

// treeSize reads the second line of a checkpoint.
func treeSize(note []byte) uint64 {
	lines := strings.SplitN(string(note), "\n", 3)
	if len(lines) < 2 {
		return 0
	}
	size, _ := strconv.ParseUint(lines[1], 10, 64)
	return size
}

// pushMetrics sends the same snapshot again and again, as an idle agent does.
func (a *agent) pushMetrics(ctx context.Context) {
	every, err := time.ParseDuration(a.MetricsEvery + "s")
	if err != nil {
		emit("failed", a.name, err.Error())
		return
	}
	for seq := uint64(0); ; {
		stream, err := a.connection.NewStream(ctx, both, "/cellward.wire.v1.Telemetry/PushMetrics", grpc.WaitForReady(true))
		for err == nil {
			seq++
			batch := &wire.MetricsBatch{Seq: seq, AtUnixMs: time.Now().UnixMilli(), Families: a.metrics.Families}
			if err = stream.SendMsg(batch); err != nil {
				break
			}
			if err = stream.RecvMsg(new(wire.MetricsAck)); err != nil {
				break
			}
			if !sleep(ctx, every) {
				return
			}
		}
		if !sleep(ctx, every) {
			return
		}
	}
}
