package agent

import (
	"log/slog"
	"slices"
	"testing"
	"time"
)

func TestReloadTakesOverWhatItCanAndNamesTheRest(t *testing.T) {
	cfg := settings(t)
	level := new(slog.LevelVar)
	a := launch(t, cfg, Options{LogLevel: level})
	changed := cfg
	changed.LogLevel, changed.Limits.Connections, changed.Store.Flush = "debug", 7, time.Minute
	changed.Link.BulkRate, changed.Link.BulkHours = 4096, []string{"00:00-24:00"}
	applied, restart, err := a.Reload(changed)
	if err != nil || !slices.Equal(applied, []string{"log-level", "link.bulk-rate", "link.bulk-hours", "limits.connections"}) || !slices.Equal(restart, []string{"store.flush"}) {
		t.Errorf("applied %q, restart %q, %v", applied, restart, err)
	}
	if level.Level() != slog.LevelDebug || a.clients.max.Load() != 7 {
		t.Errorf("level %v, %d connections", level.Level(), a.clients.max.Load())
	}
	if applied, restart, err := a.Reload(changed); err != nil || len(applied) != 0 || !slices.Equal(restart, []string{"store.flush"}) {
		t.Errorf("the same again: applied %q, restart %q, %v", applied, restart, err)
	}
	broken := changed
	broken.LogLevel = "loud"
	if applied, _, err := a.Reload(broken); ExitCode(err) != ExitConfig || len(applied) != 0 || level.Level() != slog.LevelDebug {
		t.Errorf("a broken configuration: applied %q, %v", applied, err)
	}
}
