package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

const statusPath = "/v1/status"

// link is how the agent that is asked is connected to another node: what its connections there have in common.
type link struct {
	rttMillis, loss float64
	way             string
	lost            bool
	sent, received  uint64 // bytes, since the connections were opened
}

// linkHead are the columns of a link.
var linkHead = []string{"RTT", "LOSS", "WAY", "SENT", "RECEIVED"}

// cells are what stands in them; dashes if there is no connection.
func (l *link) cells() []string {
	if l == nil {
		return []string{"-", "-", "-", "-", "-"}
	}
	rtt := "-"
	if l.rttMillis > 0 {
		rtt = strconv.FormatFloat(l.rttMillis, 'f', 1, 64) + "ms"
	}
	way := l.way
	if l.lost {
		way += ", lost"
	}
	return []string{rtt, strconv.FormatFloat(100*l.loss, 'f', 1, 64) + "%", way, roughBytes(l.sent), roughBytes(l.received)}
}

// roughBytes is a number of bytes as a person reads it.
func roughBytes(n uint64) string {
	const step = 1024
	if n < step {
		return strconv.FormatUint(n, 10) + "B"
	}
	v, unit := float64(n)/step, 0
	for units := 3; v >= step && unit < units; unit++ {
		v /= step
	}
	return fmt.Sprintf("%.1f%s", v, []string{"KiB", "MiB", "GiB", "TiB"}[unit])
}

// linksOf reads the links out of /v1/status, by node id without dashes. Round trip and way are those of the connection that carries
// raft or an uplink; bytes and losses of packets are of all. Where datagrams are counted by themselves, the loss is theirs.
func linksOf(doc []byte) (map[string]*link, error) {
	var status struct {
		Links []struct {
			Node          string                  `json:"node"`
			Protocol      string                  `json:"protocol"`
			Way           string                  `json:"way"`
			Lost          bool                    `json:"lost"`
			RTTMillis     float64                 `json:"rtt_ms"`
			Loss          float64                 `json:"loss"`
			BytesSent     uint64                  `json:"bytes_sent"`
			BytesReceived uint64                  `json:"bytes_received"`
			Mail          *struct{ Loss float64 } `json:"mail"`
		} `json:"links"`
	}
	if err := json.Unmarshal(doc, &status); err != nil {
		return nil, fmt.Errorf("the status is no JSON: %w", err)
	}
	links := make(map[string]*link)
	for _, l := range status.Links {
		all := links[l.Node]
		if all == nil {
			all = &link{}
			links[l.Node] = all
		}
		all.sent += l.BytesSent
		all.received += l.BytesReceived
		if all.way != "" && !strings.HasPrefix(l.Protocol, "holdfast-raft/") && !strings.HasPrefix(l.Protocol, "holdfast-uplink/") {
			continue
		}
		all.rttMillis, all.way, all.lost, all.loss = l.RTTMillis, l.Way, l.Lost, l.Loss
		if l.Mail != nil {
			all.loss = l.Mail.Loss
		}
	}
	return links, nil
}
