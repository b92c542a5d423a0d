package rest

import (
	"net/http"
	"strings"

	"holdfast/kv"
)

// preferences are what Prefer (RFC 7240) may ask of a write. What is not served is ignored, as the RFC wants it:
// respond-async and wait do nothing on a node without a queue.
type preferences struct {
	minimal bool // return=minimal: no body
}

func parsePrefer(h http.Header) (p preferences) {
	for _, line := range h["Prefer"] {
		for item := range strings.SplitSeq(line, ",") {
			token, _, _ := strings.Cut(item, ";")
			name, value, _ := strings.Cut(token, "=")
			if strings.EqualFold(strings.TrimSpace(name), "return") && strings.EqualFold(strings.Trim(value, " \t\""), "minimal") {
				p.minimal = true
			}
		}
	}
	return p
}

// checkWrite reads ?write. Nothing is queued on this node, so that auto is the same as sync and queue cannot be had.
func checkWrite(p *params) error {
	mode, ok := p.text("write")
	if !ok {
		return nil
	}
	switch mode {
	case "sync", "auto":
		return nil
	case "queue":
		return kv.Errorf(kv.Invalid, "write=queue is for keys under a prefix of queue.prefixes, and this key is under none")
	}
	return kv.Errorf(kv.Invalid, "write=%q is not one of sync, queue and auto", mode)
}

// checkLater refuses headers of the contract that this version does not serve: to ignore them would break a promise.
func checkLater(h http.Header) error {
	if h["Idempotency-Key"] != nil {
		return kv.Errorf(kv.Unsupported, "Idempotency-Key is not in this version of Holdfast; guard the write with If-Match or If-None-Match to send it again safely")
	}
	return nil
}
