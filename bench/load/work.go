package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	wire "cellward.dev/load/wire"
)

const fetchTimeout = 30 * time.Second

// features that an agent of today tells the hub of.
var features = []string{"carried-documents", "carried-policy", "carried-mark"}

// roleFile is what is read of a TUF file of targets.
type roleFile struct {
	Signed struct {
		Targets map[string]struct {
			Hashes struct {
				SHA256 string `json:"sha256"`
			} `json:"hashes"`
		} `json:"targets"`
	} `json:"signed"`
}

// carryOut fetches the documents of an item, compares them with their digests, and answers with a signed receipt.
func (a *agent) carryOut(ctx context.Context, item *wire.DesiredItem) {
	for wait := newBackoff(); a.isNewest(item); {
		err := a.fetchDocuments(ctx, item)
		if err == nil {
			a.answer(item)
			return
		}
		if ctx.Err() == nil {
			emit("failed", a.name, "documents: "+err.Error())
		}
		if !wait.sleep(ctx) {
			return
		}
	}
}

func (a *agent) isNewest(item *wire.DesiredItem) bool {
	a.lock.Lock()
	defer a.lock.Unlock()
	return a.items[cellOf(item)] == item
}

func (a *agent) fetchDocuments(ctx context.Context, item *wire.DesiredItem) error {
	carried := map[string][]byte{}
	for _, document := range item.Documents {
		carried[document.Digest] = document.Envelope
	}
	for _, digest := range append([]string{item.DeploymentDigest}, item.Evidence...) {
		data := carried[digest]
		if data == nil {
			var err error
			if data, err = a.fetch(ctx, &wire.FetchRequest{What: &wire.FetchRequest_Digest{Digest: digest}}); err != nil {
				return err
			}
		}
		if found, err := payloadDigest(data); err != nil || found != digest {
			return fmt.Errorf("%s is %s (%v)", digest, found, err)
		}
	}
	return nil
}

func (a *agent) answer(item *wire.DesiredItem) {
	release := ""
	if len(item.Evidence) > 0 {
		release = item.Evidence[0]
	}
	receipt := &wire.Receipt{
		Revision: item.Revision, Project: item.Project, Cell: item.Cell, Environment: item.Environment,
		DeploymentDigest: item.DeploymentDigest, Accepted: true,
	}
	receipt.Statement = a.sign(receiptType, map[string]any{
		"schema": "cellward.receipt/v1", "realm": a.Realm, "uid": a.uid, "revision": item.Revision,
		"project": item.Project, "cell": item.Cell, "environment": item.Environment,
		"deploymentDigest": item.DeploymentDigest, "accepted": true, "refusals": []string{},
		"at": time.Now().UTC().Format("2006-01-02T15:04:05Z"),
	})
	report := &wire.CellStatus{
		Project: item.Project, Cell: item.Cell, Environment: item.Environment, Phase: wire.CellPhase_CELL_PHASE_READY,
		DeploymentDigest: item.DeploymentDigest, ReleaseDigest: release, Isolation: "unknown",
	}
	a.log.record("cell.apply", "Cell/"+item.Project+"/"+item.Cell, "done", item.Revision,
		map[string]string{"deploymentDigest": item.DeploymentDigest, "releaseDigest": release})
	a.lock.Lock()
	a.waiting[cellOf(item)], a.reports[cellOf(item)] = receipt, report
	live := a.session
	a.lock.Unlock()
	if live != nil {
		_ = live.sendReceipt(receipt)
		_ = live.send(&wire.AgentFrame{Body: &wire.AgentFrame_CellStatus{CellStatus: report}})
	}
}

// notice says that there is newer policy; many notices are one.
func (a *agent) notice() {
	select {
	case a.noticed <- struct{}{}:
	default:
	}
}

// followPolicy fetches the newest policy set on every notice.
func (a *agent) followPolicy(ctx context.Context) {
	wait := newBackoff()
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.noticed:
		}
		if err := a.refresh(ctx); err != nil {
			emit("failed", a.name, "policy: "+err.Error())
			a.notice()
			if !wait.sleep(ctx) {
				return
			}
			continue
		}
		wait.reset()
	}
}

// refresh fetches a set and the bundles it names that are not held yet; nothing is verified but digests.
func (a *agent) refresh(ctx context.Context) error {
	a.lock.Lock()
	held := proto.CloneOf(a.policy)
	a.lock.Unlock()
	files, err := a.policyFiles(ctx, held)
	if err != nil {
		return err
	}
	bundles := map[string]string{}
	carried := map[string]bool{}
	for _, target := range files.Targets {
		carried[digestOf(target)] = true
	}
	for _, file := range files.Metadata {
		switch file.Name.Role {
		case "root":
			held.Root = file.Name.Version
		case "timestamp":
			held.Timestamp = file.Name.Version
		case "snapshot":
			held.Snapshot = file.Name.Version
		case "targets":
			held.Targets = file.Name.Version
			if err := a.fetchTargets(ctx, file.Data, carried, bundles); err != nil {
				return err
			}
			held.Bundles = bundles
		}
	}
	held.SnapshotExpiresUnix = time.Now().Add(7 * 24 * time.Hour).Unix()
	a.log.record("policy.accept", "policy", "allow", 0, map[string]string{})
	a.lock.Lock()
	a.policy = held
	a.lock.Unlock()
	emit("verified", a.name, strconv.FormatUint(held.Snapshot, 10))
	return nil
}

// policyFiles returns what came with the notice, if it fits what is held, or fetches it.
func (a *agent) policyFiles(ctx context.Context, held *wire.PolicyVersions) (*wire.PolicyFiles, error) {
	a.lock.Lock()
	carried := a.carried
	a.carried = nil
	a.lock.Unlock()
	if carried.GetFiles() != nil && carried.Held.RootVersion <= held.Root && carried.Held.SnapshotVersion <= held.Snapshot {
		return carried.Files, nil
	}
	files := new(wire.PolicyFiles)
	data, err := a.fetch(ctx, &wire.FetchRequest{What: &wire.FetchRequest_PolicySet{
		PolicySet: &wire.PolicySet{RootVersion: held.Root, SnapshotVersion: held.Snapshot},
	}})
	if err == nil {
		err = proto.Unmarshal(data, files)
	}
	return files, err
}

func (a *agent) fetchTargets(ctx context.Context, metadata []byte, carried map[string]bool, bundles map[string]string) error {
	var role roleFile
	if err := json.Unmarshal(metadata, &role); err != nil {
		return err
	}
	for path, target := range role.Signed.Targets {
		digest := "sha256:" + target.Hashes.SHA256
		if strings.HasPrefix(path, "bundles/") {
			bundles[path] = digest
		}
		if carried[digest] || a.held[digest] {
			continue
		}
		data, err := a.fetch(ctx, &wire.FetchRequest{What: &wire.FetchRequest_Digest{Digest: digest}})
		if err != nil {
			return err
		}
		if digestOf(data) != digest {
			return fmt.Errorf("%s is %s", digest, digestOf(data))
		}
		clear(a.held)
		a.held[digest] = true
	}
	return nil
}

// fetch reads one piece of content.
func (a *agent) fetch(ctx context.Context, request *wire.FetchRequest) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	description := &grpc.StreamDesc{ServerStreams: true}
	stream, err := a.connection.NewStream(ctx, description, "/cellward.wire.v1.Content/Fetch", grpc.WaitForReady(true))
	if err != nil {
		return nil, err
	}
	if err := stream.SendMsg(request); err != nil {
		return nil, err
	}
	if err := stream.CloseSend(); err != nil {
		return nil, err
	}
	var data []byte
	var total uint64
	for {
		chunk := new(wire.Chunk)
		if err := stream.RecvMsg(chunk); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		if chunk.Absent {
			return nil, errors.New("the hub has no such content")
		}
		total = max(total, chunk.Total)
		data = append(data, chunk.Data...)
	}
	if uint64(len(data)) != total {
		return nil, fmt.Errorf("%d bytes of %d", len(data), total)
	}
	return data, nil
}
