package auth

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"

	"holdfast/kv"
)

// Passwords hashes and checks passwords, each of which takes a core for some 50 ms. So few are under way at once, few wait,
// and who guesses waits longer each time.
type Passwords struct {
	places  chan struct{} // of those under way
	waiting chan struct{} // of those that wait, the former included; beyond them a call is refused
	now     func() time.Time
	cost    int

	mu     sync.Mutex
	misses map[[sha256.Size]byte]miss // by guesser and what is counted of it
}

// guesser is whom a wrong password counts against.
type guesser struct {
	user string
	from string // where the client is, as the node says that has asked it
	node string // that node, empty for this one: it may say what it likes
}

// tally is one of the counts that a wrong password is in.
type tally struct {
	key  [sha256.Size]byte // a digest: names are as long as those who guess like
	free int               // wrong passwords in a row that cost nothing
	last time.Duration     // the longest pause
}

// tallies are the user's at that place, and through another node the user's at that node.
func (g guesser) tallies() []tally {
	key := func(parts ...string) (sum [sha256.Size]byte) {
		h := sha256.New()
		for _, part := range parts {
			_, _ = fmt.Fprintf(h, "%d:%s", len(part), part) // never fails
		}
		return [sha256.Size]byte(h.Sum(nil))
	}
	all := []tally{{key(g.user, g.node, g.from), freeMisses, lastPause}}
	if g.node != "" {
		all = append(all, tally{key(g.user, g.node), nodeMisses, nodePause})
	}
	return all
}

// miss is how often in a row a password was wrong, and when the next one is looked at.
type miss struct {
	count int
	until time.Time
}

const (
	// PasswordCost is bcrypt's, as etcd has it.
	PasswordCost = bcrypt.DefaultCost

	waitingMax = 64

	// A user who mistypes is not held up; a guesser gets some 2,900 tries a day for each name and address.
	freeMisses = 4
	firstPause = 500 * time.Millisecond
	lastPause  = 30 * time.Second
	missesMax  = 4096
	forgetMiss = 15 * time.Minute

	// Through a node as a whole, whose word for where a client is need not be true: many that mistype are not held up, and one
	// that was stolen gets some 86,400 tries a day for each name.
	nodeMisses = 64
	nodePause  = time.Second
)

// NewPasswords returns one that judges by a clock. Cost 0 is PasswordCost; tests have the least.
func NewPasswords(now func() time.Time, cost int) *Passwords {
	if cost == 0 {
		cost = PasswordCost
	}
	return &Passwords{
		places: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)), waiting: make(chan struct{}, waitingMax),
		now: now, cost: cost, misses: map[[sha256.Size]byte]miss{},
	}
}

// enter waits for a place; leave gives it back.
func (w *Passwords) enter(ctx context.Context) error {
	select {
	case w.waiting <- struct{}{}:
	default:
		return tooMany("%d passwords are being checked and wait to be", waitingMax)
	}
	select {
	case w.places <- struct{}{}:
		return nil
	case <-ctx.Done():
		<-w.waiting
		return kv.Errorf(kv.Busy, "the caller gave up waiting: %v", context.Cause(ctx))
	}
}

func (w *Passwords) leave() {
	<-w.places
	<-w.waiting
}

func tooMany(format string, args ...any) *kv.Error {
	e := kv.Errorf(kv.RateLimited, format+": try again later", args...)
	e.RetryAfter = time.Second
	return e
}

// Hash makes the hash of a new password.
func (w *Passwords) Hash(ctx context.Context, password string) ([]byte, error) {
	if err := w.enter(ctx); err != nil {
		return nil, err
	}
	defer w.leave()
	h, err := bcrypt.GenerateFromPassword([]byte(password), w.cost)
	if errors.Is(err, bcrypt.ErrPasswordTooLong) {
		return nil, kv.Errorf(kv.Invalid, "the password is longer than 72 bytes")
	}
	return h, err
}

// dummy is what the password of somebody who is not there is compared with, so that it takes as long.
var dummy = sync.OnceValue(func() []byte {
	h, err := bcrypt.GenerateFromPassword([]byte("nobody"), PasswordCost)
	if err != nil {
		panic(err) // of constants
	}
	return h
})

// check compares a password with a hash.
func (w *Passwords) check(ctx context.Context, who guesser, password string, hash []byte) error {
	all := who.tallies()
	if err := w.patience(all); err != nil {
		return err
	}
	if err := w.enter(ctx); err != nil {
		return err
	}
	right := hash
	if len(hash) == 0 {
		right = dummy()
	}
	err := bcrypt.CompareHashAndPassword(right, []byte(password))
	w.leave()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range all {
		if err == nil && len(hash) > 0 {
			delete(w.misses, t.key)
		} else {
			w.missed(t)
		}
	}
	if err != nil || len(hash) == 0 {
		return errPassword()
	}
	return nil
}

func errPassword() *kv.Error {
	return kv.Errorf(kv.AuthFailed, "there is no such user, or the password is another one")
}

// patience refuses who has to wait.
func (w *Passwords) patience(all []tally) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	for _, t := range all {
		if m := w.misses[t.key]; now.Before(m.until) {
			e := tooMany("%d wrong passwords in a row", m.count)
			e.RetryAfter = m.until.Sub(now)
			return e
		}
	}
	return nil
}

// missed is called with mu held.
func (w *Passwords) missed(t tally) {
	now := w.now()
	if len(w.misses) >= missesMax {
		w.forget(now)
	}
	m := w.misses[t.key]
	if m.count++; m.count > t.free {
		pause := t.last
		if n := m.count - t.free - 1; n < 8 {
			pause = min(t.last, firstPause<<n)
		}
		m.until = now.Add(pause)
	}
	w.misses[t.key] = m
}

// forget makes room: those who have not tried for a while go first, else any.
func (w *Passwords) forget(now time.Time) {
	for who, m := range w.misses {
		if now.Sub(m.until) > forgetMiss {
			delete(w.misses, who)
		}
	}
	for who := range w.misses {
		if len(w.misses) < missesMax {
			return
		}
		delete(w.misses, who)
	}
}
