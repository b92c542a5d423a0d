package packaging

import (
	"slices"
	"strings"
	"testing"
)

// The unit gives the agent these two folders and no other.
func TestPackagedConfigurationStaysInsideTheSandbox(t *testing.T) {
	text, err := Files.ReadFile("agent.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var settings []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			settings = append(settings, line)
		}
	}
	want := []string{"data-dir: /var/lib/holdfast", "socket: /run/holdfast/agent.sock"}
	if !slices.Equal(settings, want) {
		t.Errorf("agent.yaml sets %q, want %q and all else at its default", settings, want)
	}
}
