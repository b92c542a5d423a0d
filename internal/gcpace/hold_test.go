package gcpace

import (
	"runtime/debug"
	"testing"
)

// told is how the collector is told to work.
func told() int {
	percent := debug.SetGCPercent(100)
	debug.SetGCPercent(percent)
	return percent
}

func TestTheCollectorIsHeldUntilTheLastLetsGo(t *testing.T) {
	before := told()
	defer debug.SetGCPercent(before)
	first, second := Hold(), Hold()
	first()
	first()
	if got := told(); got != -1 {
		t.Errorf("while one holds it, it works at %d", got)
	}
	tell(250)
	if got := told(); got != -1 {
		t.Errorf("told meanwhile, it works at %d", got)
	}
	second()
	if got := told(); got != 250 {
		t.Errorf("let go, it works at %d, want what it was told", got)
	}
	tell(before)
	Hold()()
	if got := told(); got != before {
		t.Errorf("held once more, it works at %d, want %d", got, before)
	}
}
