package main

import "testing"

func TestNodesSayHowOftenTheySpeakAtRestAndWhenTheyWereThere(t *testing.T) {
	w := newWorld(t)
	f := newFakeAgent(t, w.path("a.sock"), answering(200, "application/json", `{"nodes":[`+
		`{"id":"01","name":"van","role":"proxy","state":"away","keep_alive_seconds":60,"last_seen":"2000-01-02T03:04:05Z"},`+
		`{"id":"02","name":"kiosk","role":"proxy","state":"away","keep_alive_seconds":15,"keep_alive_short":true},`+
		`{"id":"03","name":"till","role":"proxy","state":"away"},`+
		`{"id":"04","name":"boat","role":"proxy","state":"away","certificate_since":"2000-01-02T03:04:05Z"},`+
		`{"id":"05","name":"shed","role":"proxy","state":"away","certificate_since":"2000-01-02T03:04:05Z","last_seen":"2000-02-02T03:04:05Z"},`+
		`{"id":"06","name":"loft","role":"proxy","state":"connected","certificate_since":"2000-01-02T03:04:05Z"}]}`))
	got := w.runs(0, "nodes", "ls", "--socket", f.socket)
	for _, line := range []string{
		"van 01 proxy away - - - - - - - - - - 60s 2000-01-02T03:04:05Z",
		"kiosk 02 proxy away - - - - - - - - - - 15s, NAT too short -",
		"till 03 proxy away - - - - - - - - - - - -",
		"boat 04 proxy away - - - - - - - - - - - after 2000-01-02T03:04:05Z",
		"shed 05 proxy away - - - - - - - - - - - 2000-02-02T03:04:05Z",
		"loft 06 proxy connected - - - - - - - - - - - -",
	} {
		if !hasLine(got, line) {
			t.Errorf("got\n%s\nwant the line %q", got, line)
		}
	}
}
