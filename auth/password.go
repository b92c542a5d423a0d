package auth

import (
	"context"
	"errors"
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
	misses map[string]miss // by user and address
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
)

// NewPasswords returns one that judges by a clock. Cost 0 is PasswordCost; tests have the least.
func NewPasswords(now func() time.Time, cost int) *Passwords {
	if cost == 0 {
		cost = PasswordCost
	}
	return &Passwords{
		places: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)), waiting: make(chan struct{}, waitingMax),
		now: now, cost: cost, misses: map[string]miss{},
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

// check compares a password with a hash. From and user are whom a miss counts against.
func (w *Passwords) check(ctx context.Context, user, from, password string, hash []byte) error {
	who := user + "\x00" + from
	if err := w.patience(who); err != nil {
		return err
	}
	if err := w.enter(ctx); err != nil {
		return err
	}
	if len(hash) == 0 {
		_ = bcrypt.CompareHashAndPassword(dummy(), []byte(password))
		w.leave()
		w.missed(who)
		return errPassword()
	}
	err := bcrypt.CompareHashAndPassword(hash, []byte(password))
	w.leave()
	if err != nil {
		w.missed(who)
		return errPassword()
	}
	w.mu.Lock()
	delete(w.misses, who)
	w.mu.Unlock()
	return nil
}

func errPassword() *kv.Error {
	return kv.Errorf(kv.AuthFailed, "there is no such user, or the password is another one")
}

// patience refuses who has to wait.
func (w *Passwords) patience(who string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	m, now := w.misses[who], w.now()
	if !now.Before(m.until) {
		return nil
	}
	e := tooMany("%d wrong passwords in a row", m.count)
	e.RetryAfter = m.until.Sub(now)
	return e
}

func (w *Passwords) missed(who string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	if len(w.misses) >= missesMax {
		w.forget(now)
	}
	m := w.misses[who]
	if m.count++; m.count > freeMisses {
		pause := lastPause
		if n := m.count - freeMisses - 1; n < 8 {
			pause = min(lastPause, firstPause<<n)
		}
		m.until = now.Add(pause)
	}
	w.misses[who] = m
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
