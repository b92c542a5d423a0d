package agent

import (
	"log/slog"
	"sync"

	"holdfast/config"
)

// reloader keeps the settings in force.
type reloader struct {
	mu    sync.Mutex
	cfg   config.Config // in force: what needs a restart is still the old one here
	level *slog.LevelVar
}

// Reload takes over what may change while the agent runs, and names the settings that changed and need a restart. A
// cfg that does not pass its checks changes nothing.
func (a *Agent) Reload(cfg config.Config) (applied, needRestart []string, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, nil, &exitError{ExitConfig, err}
	}
	a.tell("RELOADING=1", monotonic())
	r := &a.reload
	r.mu.Lock()
	for _, change := range config.Compare(r.cfg, cfg) {
		if a.apply(change.Key, cfg) {
			applied = append(applied, change.Key)
		} else {
			needRestart = append(needRestart, change.Key)
		}
	}
	r.mu.Unlock()
	if a.https != nil {
		_ = a.https.keeper.Reload() // it says itself what is wrong, and the former files stay in force
	}
	a.opts.Log.Info("configuration reloaded", "applied", applied, "need_restart", needRestart)
	a.tell("READY=1", status(a.statusLine()))
	return applied, needRestart, nil
}

// apply brings one setting into force, if that can be done now.
func (a *Agent) apply(key string, cfg config.Config) bool {
	r := &a.reload
	switch key {
	case "log-level":
		if r.level == nil || r.level.UnmarshalText([]byte(cfg.LogLevel)) != nil {
			return false
		}
		r.cfg.LogLevel = cfg.LogLevel
	case "link.bulk-rate":
		r.cfg.Link.BulkRate = cfg.Link.BulkRate
		a.limitBulk(r.cfg.Link)
	case "link.bulk-hours":
		r.cfg.Link.BulkHours = cfg.Link.BulkHours
		a.limitBulk(r.cfg.Link)
	case "limits.connections":
		a.clients.max.Store(int64(cfg.Limits.Connections))
		r.cfg.Limits.Connections = cfg.Limits.Connections
	case "limits.client-share":
		a.ledger.share.Store(int64(cfg.Limits.ClientShare))
		r.cfg.Limits.ClientShare = cfg.Limits.ClientShare
	case "limits.connection-rate":
		a.ledger.opens.Store(int64(cfg.Limits.ConnectionRate))
		r.cfg.Limits.ConnectionRate = cfg.Limits.ConnectionRate
	case "limits.rate":
		a.ledger.rate.Store(int64(cfg.Limits.Rate))
		r.cfg.Limits.Rate = cfg.Limits.Rate
	default:
		return false
	}
	return true
}
