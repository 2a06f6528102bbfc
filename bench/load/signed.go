package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
)

const (
	receiptType    = "application/vnd.cellward.receipt.v1+json"
	checkpointType = "application/vnd.cellward.audit-checkpoint.v1+json"
)

type signature struct {
	Keyid string `json:"keyid"`
	Sig   string `json:"sig"`
}

type envelope struct {
	Payload     string      `json:"payload"`
	PayloadType string      `json:"payloadType"`
	Signatures  []signature `json:"signatures"`
}

// canonical is the canonical form of what is encoded here: maps with ASCII keys, strings without escapes, integers.
func canonical(value any) []byte {
	data, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return data
}

// sign returns a DSSE envelope by the statement key.
func (a *agent) sign(kind string, body map[string]any) []byte {
	payload := canonical(body)
	message := fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(kind), kind, len(payload), payload)
	return canonical(envelope{
		Payload: base64.StdEncoding.EncodeToString(payload), PayloadType: kind,
		Signatures: []signature{{a.keyid, base64.StdEncoding.EncodeToString(ed25519.Sign(a.statement, message))}},
	})
}

// digestOf is the digest by which content is named.
func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// payloadDigest is the digest of a document's payload, by which its envelope is asked for.
func payloadDigest(data []byte) (string, error) {
	var found envelope
	if err := json.Unmarshal(data, &found); err != nil {
		return "", err
	}
	payload, err := base64.StdEncoding.DecodeString(found.Payload)
	if err != nil {
		return "", err
	}
	return digestOf(payload), nil
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
