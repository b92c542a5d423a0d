package rest

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"holdfast/kv"
)

// preferences are what Prefer (RFC 7240) may ask of a write. The RFC wants what cannot be had to be ignored, and so it
// is: respond-async and wait change nothing for a key that is not queued.
type preferences struct {
	minimal bool          // return=minimal: no body
	async   bool          // respond-async: rather queued than waited for
	wait    time.Duration // wait: how long a quorum is waited for, 0 if not given
}

// preferWaitMax is as long as a write is ever made to wait.
const preferWaitMax = time.Minute

func parsePrefer(h http.Header) (p preferences) {
	for _, line := range h["Prefer"] {
		for item := range strings.SplitSeq(line, ",") {
			token, _, _ := strings.Cut(item, ";")
			name, value, _ := strings.Cut(token, "=")
			value = strings.Trim(value, " \t\"")
			switch strings.ToLower(strings.TrimSpace(name)) {
			case "return":
				p.minimal = p.minimal || strings.EqualFold(value, "minimal")
			case "respond-async":
				p.async = true
			case "wait":
				if n, err := strconv.ParseUint(value, 10, 32); err == nil {
					p.wait = max(asyncWait, min(time.Duration(n)*time.Second, preferWaitMax))
				}
			}
		}
	}
	return p
}

// asyncWait is how long wait=0, or respond-async without a wait of its own, waits for a quorum: hardly.
const asyncWait = time.Millisecond

// setWrite decides how a command may be acknowledged: by ?write, else by what the node does for the key, in which
// Prefer has a say.
func (p preferences) setWrite(c *kv.Command, mode kv.Write) {
	c.Write, c.Wait = mode, p.wait
	if mode == kv.WriteAuto && p.async && p.wait == 0 {
		c.Wait = asyncWait
	}
}

// parseWriteMode reads ?write. The default is auto, which is sync for every key that is not under a prefix of the
// queue; a node without one for the key refuses queue.
func parseWriteMode(p *params) (kv.Write, error) {
	mode, ok := p.text("write")
	if !ok {
		return kv.WriteAuto, nil
	}
	switch mode {
	case "sync":
		return kv.WriteSync, nil
	case "auto":
		return kv.WriteAuto, nil
	case "queue":
		return kv.WriteQueue, nil
	}
	return 0, kv.Errorf(kv.Invalid, "write=%q is not one of sync, queue and auto", mode)
}
