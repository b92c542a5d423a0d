package main

import (
	"slices"
	"testing"
)

func TestALinkIsTheSumOfItsConnections(t *testing.T) {
	links, err := linksOf([]byte(`{"links":[
		{"node":"aa","protocol":"holdfast-bulk/1","way":"tcp","rtt_ms":9,"loss":0.5,"bytes_sent":1000,"bytes_received":10},
		{"node":"aa","protocol":"holdfast-raft/1","way":"udp","rtt_ms":1.26,"loss":0.25,"bytes_sent":1048,"bytes_received":10,"mail":{"loss":0.015}},
		{"node":"aa","protocol":"holdfast-path/1","way":"udp","rtt_ms":5,"loss":0.75,"bytes_sent":0,"bytes_received":3},
		{"node":"bb","protocol":"holdfast-uplink/1","way":"tcp","lost":true,"bytes_sent":5368709120,"bytes_received":1572864}]}`))
	if err != nil {
		t.Fatal(err)
	}
	for node, want := range map[string][]string{
		"aa": {"1.3ms", "1.5%", "udp", "2.0KiB", "23B"},
		"bb": {"-", "0.0%", "tcp, lost", "5.0GiB", "1.5MiB"},
		"cc": {"-", "-", "-", "-", "-"},
	} {
		if got := links[node].cells(); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", node, got, want)
		}
	}
}
