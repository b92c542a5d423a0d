package agent

import (
	"strings"
	"testing"

	"holdfast/config"
)

// What the packages for 32 bits do is tested with such a program in test/e2e; this is the sentence.
func TestAProgramWithoutRaftRefusesToBeAMember(t *testing.T) {
	err := supports(config.ModeMember, false)
	if ExitCode(err) != ExitConfig || !strings.Contains(err.Error(), "--mode=proxy") {
		t.Errorf("refused with %v, exit %d", err, ExitCode(err))
	}
	for _, mode := range []config.Mode{config.ModeAuto, config.ModeProxy} {
		if err := supports(mode, false); err != nil {
			t.Errorf("mode %s: %v", mode, err)
		}
	}
	if err := supports(config.ModeMember, true); err != nil {
		t.Error(err)
	}
}
