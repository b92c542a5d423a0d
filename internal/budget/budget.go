// Package budget keeps account of the bytes that a node's links carry in a day, against what they may.
package budget

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	// lookEvery is how often what was carried is taken note of, and so how late it is found out that a budget is used up.
	lookEvery = 5 * time.Second
	// saveEvery is the least time between two writes of the file while a day lasts: so much is forgotten by a power cut at most.
	saveEvery = time.Hour
	// warnShare of the budget is warned of, once a day.
	warnShare = 0.8
)

// Options of an Account; all but Log are required.
type Options struct {
	Path    string           // of the file in which the account outlives a restart
	Limit   int64            // bytes a day
	Carried func() uint64    // bytes since the start of this process, never less than before
	Now     func() time.Time // the day is that of UTC
	Log     *slog.Logger
}

// Account is safe for concurrent use; Run keeps it.
type Account struct {
	opts Options

	mu      sync.Mutex
	day     string // as 2006-01-02
	used    int64  // on it
	seen    uint64 // of Carried, by then
	warned  bool
	spent   bool
	changed chan struct{} // closed when spent changes, then replaced
	saved   time.Time     // by the monotonic clock; zero: not in this process
	unsaved bool
}

// State is an account as an operator sees it.
type State struct {
	Limit, Used int64
	Spent       bool
	Until       time.Time // when the next day begins
}

// record is the file.
type record struct {
	Day  string `json:"day"`
	Used int64  `json:"used"`
}

const dayForm = "2006-01-02"

// Open reads what was used up today. A file that cannot be read is an error, with an account that begins at nothing.
func Open(o Options) (*Account, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	a := &Account{opts: o, changed: make(chan struct{}), day: o.Now().UTC().Format(dayForm), seen: o.Carried()}
	data, err := os.ReadFile(o.Path)
	if errors.Is(err, os.ErrNotExist) {
		return a, nil
	}
	var r record
	if err == nil {
		if err = json.Unmarshal(data, &r); err == nil && r.Used < 0 {
			err = errors.New("less than nothing was used")
		}
	}
	if err != nil {
		a.unsaved = true
		return a, fmt.Errorf("what the links have carried today is not known: read %s: %w", o.Path, err)
	}
	if r.Day >= a.day { // a clock that was ahead does not give the day back
		a.used = r.Used
	}
	a.judge(o.Now())
	return a, nil
}

// Run keeps the account until ctx ends, and then writes it down.
func (a *Account) Run(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			a.Look()
		case <-ctx.Done():
			a.Look()
			a.save(true)
			return
		}
	}
}

// Look takes note of what was carried.
func (a *Account) Look() {
	now, carried := a.opts.Now(), a.opts.Carried()
	a.mu.Lock()
	if day := now.UTC().Format(dayForm); day != a.day {
		if day > a.day {
			a.used, a.warned = 0, false
		}
		a.day, a.unsaved = day, true
	}
	if carried > a.seen {
		a.used, a.unsaved = a.used+int64(carried-a.seen), true
	}
	a.seen = carried
	a.judge(now)
	a.mu.Unlock()
	a.save(false)
}

// judge compares what is used with what may be. The caller holds a.mu, or has a alone.
func (a *Account) judge(now time.Time) {
	if !a.warned && float64(a.used) >= warnShare*float64(a.opts.Limit) {
		a.warned = true
		if a.used < a.opts.Limit {
			a.opts.Log.Warn("most of the links' budget for today is used: link.budget", "used_bytes", a.used, "budget_bytes", a.opts.Limit, "until", midnight(now))
		}
	}
	if spent := a.used >= a.opts.Limit; spent != a.spent {
		a.spent = spent
		close(a.changed)
		a.changed = make(chan struct{})
		if spent {
			a.opts.Log.Warn("the links' budget for today is used up: mirrors are not fed, copies against loss are not sent; writes and single reads go on. Raise link.budget if that is not meant",
				"used_bytes", a.used, "budget_bytes", a.opts.Limit, "until", midnight(now))
		} else {
			a.opts.Log.Info("the links have a budget again", "budget_bytes", a.opts.Limit)
		}
	}
}

// midnight is when the next day begins.
func midnight(now time.Time) time.Time {
	return now.UTC().Truncate(24 * time.Hour).Add(24 * time.Hour)
}

// save writes the file if that is due, or if it must be.
func (a *Account) save(must bool) {
	a.mu.Lock()
	due := a.unsaved && (must || a.saved.IsZero() || time.Since(a.saved) >= saveEvery)
	r := record{a.day, a.used}
	if due {
		a.unsaved, a.saved = false, time.Now()
	}
	a.mu.Unlock()
	if !due {
		return
	}
	data, err := json.Marshal(r)
	if err == nil {
		err = replace(a.opts.Path, data)
	}
	if err != nil {
		a.opts.Log.Warn("what the links have carried today is forgotten with a restart", "err", err)
	}
}

// replace changes a file in one step.
func replace(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}

// State answers from memory, as of a few seconds ago.
func (a *Account) State() State {
	a.mu.Lock()
	defer a.mu.Unlock()
	return State{Limit: a.opts.Limit, Used: a.used, Spent: a.spent, Until: midnight(a.opts.Now())}
}

// Spent reports whether the budget is used up, and returns a channel that is closed when that changes.
func (a *Account) Spent() (spent bool, changed <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.spent, a.changed
}
