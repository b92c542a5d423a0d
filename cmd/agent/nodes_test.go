package main

import "testing"

func TestNodesSayHowOftenTheySpeakAtRest(t *testing.T) {
	w := newWorld(t)
	f := newFakeAgent(t, w.path("a.sock"), answering(200, "application/json", `{"nodes":[`+
		`{"id":"01","name":"van","role":"proxy","state":"away","keep_alive_seconds":60,"last_seen":"2000-01-02T03:04:05Z"},`+
		`{"id":"02","name":"kiosk","role":"proxy","state":"away","keep_alive_seconds":15,"keep_alive_short":true},`+
		`{"id":"03","name":"till","role":"proxy","state":"away"}]}`))
	got := w.runs(0, "nodes", "ls", "--socket", f.socket)
	for _, line := range []string{
		"van 01 proxy away - - - - - - - - - - 60s 2000-01-02T03:04:05Z",
		"kiosk 02 proxy away - - - - - - - - - - 15s, NAT too short -",
		"till 03 proxy away - - - - - - - - - - - -",
	} {
		if !hasLine(got, line) {
			t.Errorf("got\n%s\nwant the line %q", got, line)
		}
	}
}
